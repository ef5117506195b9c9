"""How model providers answer: one reading of their wire for every runner.

`waiting` and `completions` need the standard library only: CrewAI's child process, whose
environment has no Celeriac, loads them by their path.
"""
