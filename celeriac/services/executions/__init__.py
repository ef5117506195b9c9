"""Executions: submit, dispatch, run, finish, stop, rescue."""
