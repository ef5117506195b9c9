"""The Celery side: tasks, the life of a worker process, and the keeper in beat."""
