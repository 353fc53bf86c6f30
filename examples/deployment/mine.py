"""An application to deploy: its settings, a task, and a file that exists while the worker takes tasks."""

import os
import time
from pathlib import Path

import celery_postgres
from celery import Celery, signals

URL = os.environ["DATABASE_URL"]
READY = Path(os.environ.get("READY_FILE", "/tmp/worker-ready"))
celery_postgres.install()
app = Celery("mine", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,  # the tasks of a killed worker run again
    task_reject_on_worker_lost=True,  # and so do those of a killed child
    worker_prefetch_multiplier=1,  # no claimed task waits behind a long one
    beat_scheduler="celery_postgres.beat:Scheduler",  # as many beats as you like
    beat_schedule={"work every minute": {"task": "mine.work", "schedule": 60.0}},
)


@app.task
def work(seconds=0):
    time.sleep(seconds)
    return "done"


@app.task(ignore_result=True)
def spread(count):
    for _ in range(count):
        work.delay()


@signals.worker_ready.connect
def take_tasks(**_):
    READY.touch()


@signals.worker_init.connect  # a container that is restarted keeps its files
@signals.worker_shutting_down.connect
def take_no_more(**_):
    READY.unlink(missing_ok=True)
