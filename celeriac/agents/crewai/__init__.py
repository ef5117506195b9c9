"""The `crewai` runner: crews in a child process, in CrewAI's own virtual environment."""
