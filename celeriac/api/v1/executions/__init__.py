"""Executions over HTTP: submit, list, follow, cancel and retry them."""
