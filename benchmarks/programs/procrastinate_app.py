"""The application of ``procrastinate_program``, which Procrastinate wants outside of the main module."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from procrastinate import App
from procrastinate.connector import BaseConnector

from environment.testkit.journal import Journal


def create(connector: BaseConnector) -> App:
    """An application with the task of the comparison."""
    app = App(connector=connector)
    journal = Journal(Path(os.environ.get("BENCH_JOURNAL", ".")), int(os.environ.get("BENCH_CAPACITY", "0")))

    @app.task(name="work")
    async def work(number: int, seconds: float, padding: str) -> int:
        start = time.monotonic_ns()
        if seconds:
            await asyncio.sleep(seconds)
        journal.write(number, start, time.monotonic_ns())
        return number

    return app
