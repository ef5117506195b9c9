"""Inside the child process: a crew's graph as a real CrewAI crew, told over JSON lines.

Standard library, CrewAI and what CrewAI brings only; imported as `celeriac_crew`, hence relatively.
"""
