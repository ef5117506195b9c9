"""Repositories of git: fetched, checked out for an attempt, and what the agent has changed."""
