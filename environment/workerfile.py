"""Which processes work for this checkout: the files that a running worker, and the ``./dev worker`` around it, leave in
the state folder.
"""

import http.client
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environment.locking import FileLock

#: Written by the application when it is ready, removed when it ends.
WORKER_FILE = "worker.json"

#: Held by ``./dev worker`` while it lives; contains its process id.
SUPERVISOR_LOCK = "worker.lock"


@dataclass(frozen=True)
class WorkerInfo:
    """What a ready worker reports about itself in its worker file (written by the application)."""

    pid: int
    metrics_host: str
    metrics_port: int

    @property
    def metrics_url(self) -> str:
        """Base URL of /metrics, /health, /readyz and /livez; no slash at the end."""
        host = f"[{self.metrics_host}]" if ":" in self.metrics_host else self.metrics_host
        return f"http://{host}:{self.metrics_port}"

    def get(self, path: str, timeout_s: float = 5.0) -> tuple[int, str]:
        """GET a page of the worker: status and body.

        Raises:
            OSError: when it does not answer.
        """
        connection = http.client.HTTPConnection(self.metrics_host, self.metrics_port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except http.client.HTTPException as error:
            raise OSError(f"no valid answer from {self.metrics_url}{path}") from error
        finally:
            connection.close()

    def is_ready(self) -> bool:
        """Whether /readyz answers 200."""
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False


def read_worker_file(path: Path) -> WorkerInfo | None:
    """The worker in a worker file, if that process lives; None otherwise."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        info = WorkerInfo(int(content["pid"]), str(content["metrics_host"]), int(content["metrics_port"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return info if _runs(info.pid, "celery") else None


def worker_is_ready(state: Path) -> bool:
    """Whether the worker of a state folder takes tasks."""
    info = read_worker_file(state / WORKER_FILE)
    return info is not None and info.is_ready()


def supervisor(state: Path) -> int | None:
    """The process id of the ``./dev worker`` of a state folder, or None."""
    path = state / SUPERVISOR_LOCK
    try:
        pid = int(path.read_text())
    except (OSError, ValueError):
        return None
    # The lock last: a ``./dev worker`` that is about to start must not find it taken by a process that only reads.
    if not _runs(pid, "environment.cli"):
        return None
    with FileLock(path) as lock:
        return None if lock.try_exclusive() else pid


def _runs(pid: int, word: str) -> bool:
    """Whether the process lives and has this word in its command line: process ids are reused, and files may be old."""
    if sys.platform == "linux":
        try:
            return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return word in shown.stdout
