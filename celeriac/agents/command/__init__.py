"""The `command` runner: programs in any language, as child processes."""
