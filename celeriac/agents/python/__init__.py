"""The `python` runner: users' functions, in the worker or in a child process."""
