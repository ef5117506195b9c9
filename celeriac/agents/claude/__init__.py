"""The `claude` runner: Claude Code through the Claude Agent SDK."""
