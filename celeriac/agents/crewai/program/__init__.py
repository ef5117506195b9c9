"""Inside the child process: a crew's graph as a CrewAI crew; the worker is sent JSON lines.

Uses only the standard library, CrewAI and its dependencies. Imported as `program`, hence the
relative imports.
"""
