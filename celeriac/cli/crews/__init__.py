"""`celeriac crews`: CrewAI on this machine, and graphs of crews held against the rules."""
