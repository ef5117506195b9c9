"""Measurements, beside bare Celery in the same run. Nothing here asserts a time."""
