"""The actions of the console, by name."""

from __future__ import annotations

from celery_postgres.console.action import Action
from celery_postgres.console.actions.fleet import FLEET
from celery_postgres.console.actions.letters import LETTERS
from celery_postgres.console.actions.limits import LIMITS
from celery_postgres.console.actions.payloads import PAYLOADS
from celery_postgres.console.actions.queues import QUEUES
from celery_postgres.console.actions.tasks import TASKS

ACTIONS: dict[str, Action] = QUEUES | LETTERS | TASKS | LIMITS | FLEET | PAYLOADS

__all__ = ["ACTIONS"]
