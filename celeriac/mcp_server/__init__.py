"""Celeriac as an MCP server: agents submit, watch, cancel, wait for and read executions.

A thin translation onto the HTTP client: it knows no database, and may no more than the key it is
given.
"""
