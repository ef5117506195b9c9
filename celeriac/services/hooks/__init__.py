"""Inbound hooks: managing them, and what happens when one is called."""
