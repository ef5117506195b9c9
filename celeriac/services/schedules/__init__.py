"""Schedules: their management, and their fires."""
