"""Executions: states, values and events."""
