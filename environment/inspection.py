"""``./dev status`` and ``./dev down``: show what runs, and stop it."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from environment.checkout import locate_state
from environment.database import describe, setting
from environment.errors import UserError
from environment.kept import KeptCluster
from environment.migration import current
from environment.waiting import wait_until
from environment.workerfile import WORKER_FILE, read_worker_file, supervisor

#: Seconds for a worker to finish its task; then it is killed, and the task runs again later.
_DRAIN_S = 60


def status(arguments: Sequence[str]) -> int:
    """Print what runs; start nothing."""
    state = locate_state()
    url = setting("DATABASE_URL")
    cluster = KeptCluster.in_state(state)
    print(f"state       {state}")
    if cluster is None:
        print("postgresql  not created yet")
    elif (pid := cluster.pid()) is None:
        print(f"postgresql  {cluster.installation.version}, stopped")
    else:
        print(f"postgresql  {cluster.installation.version}, pid {pid}, socket in {cluster.sockets}")
        url = url or cluster.url()
    if url is None:
        print("database    unknown while PostgreSQL is stopped")
    else:
        try:
            print(f"database    {describe(url)}, revision {current(url)}")
        except (UserError, ValueError) as error:
            print(f"database    {error}")
    worker = read_worker_file(state / WORKER_FILE)
    if worker is None:
        print("worker      none" if supervisor(state) is None else "worker      starting")
        return 0
    try:
        health = worker.get("/health")
        print(f"worker      pid {worker.pid}, {worker.metrics_url}/health: {health[0]} {health[1].strip()}")
    except OSError as error:
        print(f"worker      pid {worker.pid}, {worker.metrics_url}/health: {error}")
    return 0


def down(arguments: Sequence[str]) -> int:
    """Drain the worker, stop PostgreSQL, and print what was done. A second call finds nothing to do."""
    state = locate_state()
    cluster = KeptCluster.in_state(state)
    # ./dev worker stops PostgreSQL itself when it ends.
    was_running = cluster is not None and cluster.pid() is not None
    print("worker      " + _stop_worker(state))
    if cluster is None:
        print("postgresql  not created yet")
    else:
        print(
            "postgresql  stopped" if cluster.shut_down(patience_s=5) or was_running else "postgresql  was not running"
        )
    return 0


def _stop_worker(state: Path) -> str:
    worker = read_worker_file(state / WORKER_FILE)
    # ./dev worker passes a TERM on; a worker whose ./dev was killed gets its own.
    target = supervisor(state) or (worker.pid if worker else None)
    if target is None:
        return "none"
    os.kill(target, signal.SIGTERM)
    try:
        wait_until(lambda: _is_down(state), _DRAIN_S, "the worker to drain")
    except TimeoutError:
        if worker is None:
            raise UserError(f"process {target} does not end; inspect it before you kill it") from None
        os.killpg(worker.pid, signal.SIGKILL)
        wait_until(lambda: _is_down(state), 10, "the killed worker to go")
        return f"did not drain in {_DRAIN_S} s and was killed (pid {worker.pid})"
    return f"drained and stopped (pid {worker.pid if worker else target})"


def _is_down(state: Path) -> bool:
    return supervisor(state) is None and read_worker_file(state / WORKER_FILE) is None
