"""Implementations of the services' ports with Celery, Redis and HTTP."""
