"""`celery beat` processes of the probe program."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from environment.sources import CHECKOUT
from environment.testkit.kombu_programs import environment
from environment.testkit.probe import broker, results

EVERY_S = 0.2
SCHEDULE = {"tick": {"task": "probe.echo", "schedule": EVERY_S, "args": [1], "options": {"queue": "ticks"}}}

Beat = subprocess.Popen[bytes]


class Beats:
    """Starts beats on one database. All write to one log, `beat.log` in the folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self.log = folder / "beat.log"
        self._url = url
        self._folder = folder
        self._started: list[Beat] = []

    def start(self, *options: str, schedule: dict[str, Any] = SCHEDULE, **conf: Any) -> Beat:
        """Start another one.

        Args:
            options: more words of its command.
            schedule: its `beat_schedule`.
            conf: more of its configuration.
        """
        with self.log.open("ab") as log:
            beat = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "environment.celery", "-A", "environment.testkit.probe_app"),
                    *("beat", "--pidfile=", "--scheduler", "celery_postgres.beat:Scheduler", "--loglevel=INFO"),
                    *options,
                ],
                env={
                    **environment(),
                    "PROBE_BROKER": broker(self._url, f"beat-{len(self._started)}"),
                    "PROBE_RESULTS": results(self._url),
                    "PROBE_FOLDER": str(self._folder),
                    "PROBE_LOOK_S": "0.5",
                    "PROBE_CONF": json.dumps({"beat_schedule": schedule, "result_expires": None, **conf}),
                },
                cwd=CHECKOUT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started.append(beat)
        return beat

    def end(self) -> None:
        """Kill them all."""
        for one in self._started:
            one.kill()
            one.wait()


@contextmanager
def beating(url: str, folder: Path) -> Iterator[Beats]:
    """Beats that end with the block, which prints their log: pytest shows it with a failure."""
    beats = Beats(url, folder)
    try:
        yield beats
    finally:
        beats.end()
        if beats.log.exists():
            print(beats.log.read_text())
