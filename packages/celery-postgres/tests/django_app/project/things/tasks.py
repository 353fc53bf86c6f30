from celery import group, shared_task
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


@shared_task(bind=True)
def try_again(self, name):
    """Fail once, within the transaction."""
    with transaction.atomic():
        Thing.objects.create(name=f"{name}, try {self.request.retries}")
        if self.request.retries < 1:
            raise self.retry(countdown=0)


@shared_task(bind=True)
def hand_over(self, name):
    """Go on as other tasks, from within the transaction."""
    with transaction.atomic():
        Thing.objects.create(name=f"{name}, undone by the exception of replace")
        raise self.replace(group(make.si(f"{name}, part {part}") for part in range(2)))
