"""Use cases, one a file; they own the transactions and know neither HTTP nor Celery."""
