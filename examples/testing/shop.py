"""A shop to test: a task, and a function that publishes it in its transaction."""

import os

import celery_postgres
import psycopg2
from celery import Celery

URL = os.environ["DATABASE_URL"]
celery_postgres.install()
app = Celery("shop", broker=URL, backend=URL)


@app.task
def ship(order):
    if order < 0:
        raise ValueError("no such order")
    return f"parcel-{order}"


def place(connection, order):
    """Store an order, and publish its task in the same transaction. Return the task's `AsyncResult`."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO shop_order VALUES (%s)", [order])
    with celery_postgres.publishing_on(connection):
        return ship.delay(order)


def connect():
    return psycopg2.connect(app.conf.broker_url)
