"""Agents and tasks: management, documents, versions."""
