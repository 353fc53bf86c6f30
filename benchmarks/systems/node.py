"""The systems for Node: their programs lie in ``benchmarks/node``, where ``npm ci`` installs their packages."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from typing import ClassVar

from benchmarks.systems.databases import DatabaseSystem
from environment.sources import CHECKOUT

_FOLDER = CHECKOUT / "benchmarks" / "node"
#: The oldest that both packages run on.
_OLDEST = (22, 18)


def _node() -> str:
    """Return the program: that of the package, which brings one for Linux, else the one on PATH."""
    packed = sorted(_FOLDER.glob("node_modules/node-linux-*/bin/node"))
    return str(packed[0]) if packed else "node"


def _version() -> str:
    return subprocess.run([_node(), "--version"], capture_output=True, text=True, check=True).stdout.strip()[1:]


class _OnNode(DatabaseSystem):
    """Attributes:
    package: its name in npm.
    """

    package: ClassVar[str]

    def versions(self) -> dict[str, str]:
        described = json.loads((_FOLDER / "node_modules" / self.package / "package.json").read_text())
        return {**super().versions(), "Node.js": _version(), self.package: described["version"]}

    @classmethod
    def missing(cls) -> str | None:
        if not (_FOLDER / "node_modules" / cls.package).is_dir():
            return f"{cls.package} is not installed (npm ci in benchmarks/node; npm: apt-get install npm)"
        if shutil.which(_node()) is None:
            return "there is no node on PATH (apt-get install nodejs)"
        if tuple(map(int, _version().split(".")[:2])) < _OLDEST:
            return f"it needs Node.js {'.'.join(map(str, _OLDEST))} or newer, here is {_version()}"
        return None


class GraphileWorker(_OnNode):
    """Tasks taken into a local queue, settled in batches."""

    name = "graphile"
    label = "Graphile Worker"
    package = "graphile-worker"
    settings = (
        "as its performance page has it: 24 jobs at a time, localQueue of 500, completeJobBatchDelay=0 (without "
        "both an eighth as fast). What a killed worker held, local queue included, comes back after 4 hours"
    )
    concurrency = 24
    rough = 60_000
    program = (_node(), str(_FOLDER / "graphile.mjs"))
    tables = ("graphile_worker._private_jobs",)
    counting = "SELECT count(*) FROM graphile_worker._private_jobs"
    filling = """
        SELECT count(*)
        FROM graphile_worker.add_jobs(ARRAY(
            SELECT (
                'work',
                json_build_object('number', number, 'seconds', %(seconds)s, 'padding', %(padding)s),
                NULL, NULL, NULL, NULL, NULL, NULL
            )::graphile_worker.job_spec
            FROM generate_series(%(first)s, %(last)s) AS number
        ))"""


class PgBoss(_OnNode):
    """Tasks polled for in batches."""

    name = "pgboss"
    label = "pg-boss"
    package = "pg-boss"
    settings = (
        "batchSize=5000, burstWhenBatchFull, and notifyWorker after each fetch that found something; LISTEN "
        "(useListenNotify, and notify of the queue), and a poll every 30 s, the default with it; the queue has a table "
        "of its own; done jobs stay in it until they are archived"
    )
    concurrency = 5_000
    # 40,000 where no more than 20,000 wait, which it has done in half a second: its page says what a long queue costs.
    # Its results are not measured: 5,000 tasks begin at once and are completed one by one in the seconds after, so that
    # their starts show no rate.
    rough = 15_000
    program = (_node(), str(_FOLDER / "pgboss.mjs"))
    # The partition of the queue ``work``.
    tables = ("pgboss.j" + hashlib.sha224(b"work").hexdigest(),)
    counting = "SELECT count(*) FROM pgboss.job WHERE state < 'completed'"
    filling = """
        INSERT INTO pgboss.job (name, data, policy)
        SELECT 'work', jsonb_build_object('number', number, 'seconds', %(seconds)s, 'padding', %(padding)s), 'standard'
        FROM generate_series(%(first)s, %(last)s) AS number"""
