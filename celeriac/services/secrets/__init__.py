"""Secrets of workspaces: managing them, and handing them to agents."""
