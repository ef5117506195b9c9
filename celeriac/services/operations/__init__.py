"""Maintenance and health."""
