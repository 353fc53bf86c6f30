"""Celery on the database of a Django project: add `"celery_postgres.django"` to INSTALLED_APPS.

- `database_url(alias)`: the broker and the result backend for the settings; no second address, and no password.
- `manage.py migrate` creates the tables, `manage.py check` looks for what is missing.
- Within `transaction.atomic()` of the broker's database, tasks are published as part of the transaction.
- `at_once()`: publish within the block at once, whatever transaction is around it.

This package is imported by Django's settings, so it imports nothing of Django when it is loaded.
"""

from celery_postgres.broker.transaction import at_once
from celery_postgres.django.addresses import database_url

__all__ = ["at_once", "database_url"]
