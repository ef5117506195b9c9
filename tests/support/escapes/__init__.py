"""Attempts to leave a sandbox, which run inside of it; `tests.support.outside` has their targets.

Standard library only: the Python inside may be that of the system, or of CrewAI.
"""
