"""Workflows, their runs, and the steps and items of runs."""
