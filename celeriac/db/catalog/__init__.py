"""Agents, tasks and their versions."""
