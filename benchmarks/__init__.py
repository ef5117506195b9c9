"""Benchmarks, compared with bare Celery in the same run. Nothing here asserts a time."""
