"""How the names of our own Celery tasks begin."""

OWN_TASKS = "celeriac.tasks.execution."
"""The beginning of the names of Celery tasks that start executions."""
