"""Checks of the servers and of the work, for the API and the command line."""
