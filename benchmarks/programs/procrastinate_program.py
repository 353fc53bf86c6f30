"""Procrastinate: installs, works and publishes for the comparison."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from procrastinate import PsycopgConnector, SyncPsycopgConnector
from psycopg import AsyncConnection, Connection

from benchmarks.programs import publishing
from benchmarks.programs.procrastinate_app import create

#: Connections of a worker: one fetch at a time and a few that finish, whatever the number of tasks; 12 do no more.
_CONNECTIONS = 6

#: How the worker's own LISTEN is found.
_LISTENING = """
    SELECT count(*) AS found FROM pg_stat_activity WHERE application_name = %(name)s AND query LIKE 'LISTEN%%'"""


async def _configure(connection: AsyncConnection) -> None:
    await connection.set_autocommit(True)


def _configure_sync(connection: Connection) -> None:
    connection.autocommit = True


async def _work() -> None:
    name = f"bench-{os.getpid()}"
    connector = PsycopgConnector(
        conninfo=os.environ["BENCH_BROKER"],
        kwargs={"application_name": name},
        configure=_configure,
        min_size=2,
        max_size=_CONNECTIONS,
    )
    async with create(connector).open_async() as app:
        ready = asyncio.create_task(_say_ready(connector, name))
        await app.run_worker_async(concurrency=int(os.environ["BENCH_CONCURRENCY"]), delete_jobs="always")
        await ready


async def _say_ready(connector: PsycopgConnector, name: str) -> None:
    while not (await connector.execute_query_one_async(_LISTENING, name=name))["found"]:
        await asyncio.sleep(0.02)
    Path(os.environ["BENCH_READY"]).touch()


def main(words: Sequence[str]) -> None:
    """``install``, ``worker`` or ``publish MODE …``."""
    if words[0] == "worker":
        asyncio.run(_work())
        return
    connector = SyncPsycopgConnector(
        conninfo=os.environ["BENCH_BROKER"], configure=_configure_sync, min_size=1, max_size=1
    )
    with create(connector).open() as app:
        if words[0] == "install":
            app.schema_manager.apply_schema()
            print(json.dumps(True))
            return
        work = app.tasks["work"]

        def one(number: int, seconds: float, padding: str) -> None:
            work.defer(number=number, seconds=seconds, padding=padding)

        def many(numbers: Sequence[int], seconds: float, padding: str) -> None:
            work.batch_defer(*({"number": number, "seconds": seconds, "padding": padding} for number in numbers))

        print(json.dumps(publishing.answer(words[1:], one, many)))


if __name__ == "__main__":
    main(sys.argv[1:])
