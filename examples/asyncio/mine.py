"""Tasks that an asyncio program sends."""

import os
import time

import celery_postgres
from celery import Celery

URL = os.environ["DATABASE_URL"]
celery_postgres.install()
app = Celery("mine", broker=URL, backend=URL)


@app.task
def square(number):
    return number * number


@app.task
def fail():
    raise ValueError("this one fails")


@app.task
def sleep(seconds):
    time.sleep(seconds)
