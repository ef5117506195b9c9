"""Workflows and their runs: the use cases."""
