"""Oban for Python: jobs in PostgreSQL, on a Python of its own, since it needs 3.12."""

from __future__ import annotations

import json
import subprocess
from functools import cached_property

from benchmarks.systems.databases import DatabaseSystem
from environment.sources import CHECKOUT

#: Where ``./dev bench`` installs ``requirements/bench.txt`` for the newest Python from 3.12 on.
_PYTHON = CHECKOUT / ".venv-bench-newer" / "bin" / "python"

_VERSIONS = """
import json, platform
from importlib.metadata import version
print(json.dumps({"Python": platform.python_version(), **{name: version(name) for name in ("oban", "psycopg")}}))"""


class Oban(DatabaseSystem):
    """Its asynchronous worker; in the free edition."""

    name = "oban"
    label = "Oban for Python"
    settings = (
        "the free edition, which acknowledges one by one (Pro does it in bulk); uvloop; a queue with a limit of 400: "
        "with 100 a fifth slower; done jobs stay in the table for a day, its default"
    )
    concurrency = 400
    rough = 4_000
    program = (str(_PYTHON), "-m", "benchmarks.programs.oban_program")
    tables = ("oban_jobs",)
    counting = "SELECT count(*) FROM oban_jobs WHERE state IN ('available', 'executing')"
    filling = """
        INSERT INTO oban_jobs (queue, worker, args)
        SELECT 'bench', '__main__.Work',
            jsonb_build_object('number', number, 'seconds', %(seconds)s, 'padding', %(padding)s)
        FROM generate_series(%(first)s, %(last)s) AS number"""

    def versions(self) -> dict[str, str]:
        return {**super().versions(), **self._own}

    @cached_property
    def _own(self) -> dict[str, str]:
        done = subprocess.run([str(_PYTHON), "-c", _VERSIONS], capture_output=True, text=True, check=True)
        found: dict[str, str] = json.loads(done.stdout)
        return found

    @classmethod
    def missing(cls) -> str | None:
        if not _PYTHON.exists():
            return "it needs Python 3.12 or newer, which ./dev bench looks for on PATH and in pyenv's folder"
        return None
