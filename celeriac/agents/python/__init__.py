"""The `python` runner: users' functions, on the loop or in a child process."""
