"""The `command` runner: programs in any language, in a child process."""
