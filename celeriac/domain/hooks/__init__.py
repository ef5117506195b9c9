"""Inbound hooks: what they are, how requests to them are verified, and what they start."""
