"""An application that may stand behind a transaction pooler."""

import os

import celery_postgres
from celery import Celery

URL = os.environ["DATABASE_URL"]  # the server's own, or the pooler's
LISTEN_URL = os.environ.get("LISTEN_URL")  # the server's own, where DATABASE_URL is the pooler's
celery_postgres.install()
app = Celery("mine", broker=URL, backend=URL)
app.conf.task_acks_late = True
if LISTEN_URL:
    app.conf.broker_transport_options = {"listen_dsn": LISTEN_URL}


@app.task
def add(x, y):
    return x + y
