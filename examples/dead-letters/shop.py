"""The application, with a bug: reminders go to the wrong customers."""

import os

import celery_postgres
from celery import Celery
from celery.exceptions import Reject

URL = os.environ["DATABASE_URL"]
celery_postgres.install()
app = Celery("shop", broker=URL, backend=URL)
app.conf.task_acks_late = True


@app.task(name="shop.invoice")
def invoice(order):
    if order < 0:
        raise Reject("no such order", requeue=False)  # running it again would not help: a dead letter
    return f"invoice {order}"


@app.task(name="shop.remind")
def remind(order):
    return f"reminder for order {order + 1}"
