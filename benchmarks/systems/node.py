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


class _OnNode(DatabaseSystem):
    """Attributes:
    package: its name in npm.
    """

    package: ClassVar[str]

    def versions(self) -> dict[str, str]:
        node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        described = json.loads((_FOLDER / "node_modules" / self.package / "package.json").read_text())
        return {**super().versions(), "Node.js": node.removeprefix("v"), self.package: described["version"]}

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("node") is None:
            return "there is no node on PATH (apt-get install nodejs npm)"
        if not (_FOLDER / "node_modules" / cls.package).is_dir():
            return f"{cls.package} is not installed (npm ci in benchmarks/node)"
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
    program = ("node", str(_FOLDER / "graphile.mjs"))
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
        "version 10, the last for Node 20; batchSize=5000: each fetch sorts all that waits, so that with 100,000 "
        "waiting 1,000 are half as fast, while with 3,000 waiting 250 are nearly twice as fast; "
        "pollingIntervalSeconds=0.5, the least, and notifyWorker after each fetch that found something, so that it "
        "sleeps only when there was nothing; done jobs stay in the table until they are archived"
    )
    concurrency = 5_000
    # 40,000 where no more than 20,000 wait, which it has done in half a second: its page says what a long queue costs.
    # Its results are not measured: 5,000 tasks begin at once and are completed one by one in the seconds after, so that
    # their starts show no rate.
    rough = 15_000
    program = ("node", str(_FOLDER / "pgboss.mjs"))
    # The partition of the queue ``work``.
    tables = ("pgboss.j" + hashlib.sha224(b"work").hexdigest(),)
    counting = "SELECT count(*) FROM pgboss.job WHERE state < 'completed'"
    filling = """
        INSERT INTO pgboss.job (name, data, policy)
        SELECT 'work', jsonb_build_object('number', number, 'seconds', %(seconds)s, 'padding', %(padding)s), 'standard'
        FROM generate_series(%(first)s, %(last)s) AS number"""
