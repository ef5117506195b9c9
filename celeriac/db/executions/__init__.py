"""Executions: every change of status, leases, events, queries."""
