"""Secrets by name: their sources, the values that are accepted, and their encryption at rest."""
