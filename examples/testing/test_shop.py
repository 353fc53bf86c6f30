"""Four ways to test a task, from the fastest to the most real."""

import pytest
from celery_postgres import operations

from shop import place, ship


def test_the_function():
    """A task is a function: no broker, no worker."""
    assert ship(7) == "parcel-7"


def test_the_task_at_once(app):
    """Eager: Celery runs the task within `delay`. Nothing is published or stored."""
    app.conf.task_always_eager = True
    try:
        assert ship.delay(7).get() == "parcel-7"
        with pytest.raises(ValueError, match="no such order"):
            ship.delay(-1).get()
    finally:
        app.conf.task_always_eager = False


def test_what_is_published(app, connection):
    """Without a worker the messages wait: count them, or find those of a task."""
    with operations.of(app) as broker:
        published = place(connection, 7)
        assert broker.messages_of(published.id) == []  # not committed yet
        connection.rollback()
        assert broker.messages_of(published.id) == []

        published = place(connection, 7)
        connection.commit()
        (message,) = broker.messages_of(published.id)
        assert message.waiting
        assert message.queue == "celery"


def test_all_of_it(worker, connection):
    """With a worker: published, run, and the result read."""
    published = place(connection, 7)
    connection.commit()
    assert published.get(timeout=60) == "parcel-7"
