"""Commands for agents, tasks, and documents that describe them."""
