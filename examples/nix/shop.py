"""A shop's tasks.  Nix makes its worker: flake.nix."""

import os

import celery_postgres
from celery import Celery

celery_postgres.install()
URL = os.environ["DATABASE_URL"]
app = Celery("shop", broker=URL, backend=URL)


@app.task
def sell(article, number):
    return f"sold {number} of {article}"
