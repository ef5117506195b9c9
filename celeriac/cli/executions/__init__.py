"""Commands for executions: run, follow, list, cancel and retry them."""
