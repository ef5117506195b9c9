"""Runners: the code that drives each kind of agent."""
