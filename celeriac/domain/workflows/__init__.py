"""Workflows: the document, its graph, its expressions, and the rules of a run (pure)."""
