"""Inbound hooks and what was delivered to them."""
