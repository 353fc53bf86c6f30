"""A prefork pool forgets no task that a child runs, and ends also when it has."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: A pool of one child, and what is written to it.
BEGIN = """
import os, select, sys, warnings
warnings.simplefilter("error")
from celery import Celery
from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub, set_event_loop
from celery_postgres.compat import prefork_shutdown

prefork_shutdown.install()
app = Celery("pool", broker="memory://", set_as_current=True)
app.finalize()
hub = Hub()
set_event_loop(hub)
pool = TaskPool(1, app=app, threads=False, initargs=(app, "here"), sched_strategy=sys.argv[1])
pool.start()
pool.register_with_event_loop(hub)
loop = hub.create_loop()
hub.call_repeatedly(0.05, lambda: None)
while not pool._pool._all_inqueues:
    next(loop)
"""
#: The child accepts and ends the task while the main process does not read, as one that is busy; then Celery closes.
FORGOTTEN = """
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


#: Celery closes as soon as the task is written, or while it is written: a pipe takes 64 kB.
WRITTEN = """
accepted = []
job = pool.on_apply(len, ("x" * int(sys.argv[2]),), accept_callback=lambda *report: accepted.append(report))
while job._write_to is None:
    next(loop)
assert not job._accepted
if sys.argv[3] == "stops":
    pool._pool.close()  # as a worker does that is told to stop
pool.flush()
assert job._accepted and len(accepted) == 1, "the pool has forgotten a task that the child runs"
pool.stop()
print("ended")
"""


def run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_a_pool_ends_although_it_has_forgotten_a_task_that_a_child_runs() -> None:
    """Without the patch it takes 30 s."""
    run(FORGOTTEN, "fast")


@pytest.mark.parametrize("why", ["stops", "reconnects"])
@pytest.mark.parametrize("size", ["1", "5000000"])
def test_a_pool_that_is_flushed_waits_until_a_task_that_is_written_is_accepted(size: str, why: str) -> None:
    """Else its message is given back although the child runs it."""
    run(WRITTEN, "fair", size, why)
