"""Schedules: when a task or workflow starts by itself. Pure: nothing here reads a clock."""
