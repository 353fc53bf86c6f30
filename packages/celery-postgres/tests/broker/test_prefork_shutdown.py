"""A prefork pool ends also when a child has run a task that the pool has forgotten."""

from __future__ import annotations

import subprocess
import sys

#: The child accepts and ends the task while the main process does not read, as one that is busy; then Celery closes.
PROGRAM = """
import os, select, sys, warnings
warnings.simplefilter("error")
from celery import Celery
from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub, set_event_loop
from celery_postgres.compat import prefork_shutdown

if sys.argv[1] == "with":
    prefork_shutdown.install()
app = Celery("pool", broker="memory://", set_as_current=True)
app.finalize()
hub = Hub()
set_event_loop(hub)
pool = TaskPool(1, app=app, threads=False, initargs=(app, "here"))
pool.start()
pool.register_with_event_loop(hub)
loop = hub.create_loop()
hub.call_repeatedly(0.05, lambda: None)
while not pool._pool._all_inqueues:
    next(loop)
job = pool.on_apply(os.getpid)
while job._write_to is None:
    next(loop)
poller = select.poll()
poller.register(job._write_to.outqR_fd, select.POLLIN)
assert poller.poll(20_000), "the child has not accepted the task"
assert not job._accepted
pool.flush()
assert not pool._pool._cache, "the pool still knows the task"
pool.stop()
print("ended")
"""


def test_a_pool_ends_although_it_has_forgotten_a_task_that_a_child_runs() -> None:
    """Without the patch it takes 30 s."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "with"], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
