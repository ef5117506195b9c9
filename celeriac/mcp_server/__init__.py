"""Celeriac as an MCP server: agents start, watch, cancel and read executions.

A translation onto the HTTP client, with the permissions of the API key that it uses.
"""
