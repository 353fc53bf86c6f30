from celery import shared_task
from django.db import transaction

from things.models import Thing


@shared_task
def add(x, y):
    return x + y


@shared_task
def make(name):
    """Make a thing."""
    Thing.objects.create(name=name)


@shared_task
def make_and_follow(name, fail):
    """Make a thing, and in the same transaction publish a task that makes another."""
    with transaction.atomic():
        Thing.objects.create(name=name)
        make.delay(f"{name}, followed")
        if fail:
            transaction.set_rollback(True)
    return name
