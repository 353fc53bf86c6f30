"""The queue tool: `python -m celery_postgres`."""
