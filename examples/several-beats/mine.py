"""An entry that is due every second, and the task that writes down when it ran."""

import os

import celery_postgres
import psycopg2
from celery import Celery

URL = os.environ["DATABASE_URL"]
celery_postgres.install()
app = Celery("mine", broker=URL, backend=URL)
app.conf.beat_scheduler = "celery_postgres.beat:Scheduler"
app.conf.beat_schedule = {"every second": {"task": "mine.tick", "schedule": 1.0}}


@app.task(ignore_result=True)
def tick():
    connection = psycopg2.connect(URL)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO tick DEFAULT VALUES")
    finally:
        connection.close()
