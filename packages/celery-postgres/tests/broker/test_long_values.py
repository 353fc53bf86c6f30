"""How long payloads and results are stored: with lz4; by a server that has none, payloads as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import celery_postgres
from app.core.dsn import PostgresDSN
from environment.testkit.client import Client
from environment.testkit.machine import debians_postgresql
from environment.testkit.tables import rows, run

#: 104 kB, of which any compression leaves little.
LONG = "All of this is one text. " * 4_170

STORED = """
    SELECT a.attrelid::regclass || '.' || a.attname, a.attstorage::text, a.attcompression::text
    FROM pg_attribute AS a
    WHERE a.attrelid IN ('kombu_message'::regclass, 'kombu_dead_letter'::regclass, 'celery_taskmeta'::regclass,
                         'celery_tasksetmeta'::regclass, 'celery_chord'::regclass, 'celery_chord_part'::regclass)
      AND a.attname IN ('payload', 'result', 'body')
"""


@pytest.fixture(scope="module", params=["the default's", "Debian's"])
def server_url(request: pytest.FixtureRequest, module_database: Any, migrate: Callable[[str], None]) -> Iterator[str]:
    """A migrated database: on the suite's server, which may lack lz4, and on one that has it."""
    if request.param == "the default's":
        yield module_database.url
        return
    with debians_postgresql("lz4") as cluster:
        migrate(cluster.url())
        yield cluster.url()


def has_lz4(url: str) -> bool:
    ((methods,),) = rows(url, "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
    return "lz4" in methods


def stored(url: str) -> dict[str, tuple[str, str]]:
    return {column: (storage, compression) for column, storage, compression in rows(url, STORED)}


def test_a_long_payload_comes_as_it_was_and_is_stored_so(
    server_url: str, connect: Callable[..., Client], queue: str
) -> None:
    client = connect(server_url)
    client.publish(LONG, queue)
    ((method, size),) = rows(
        server_url, "SELECT pg_column_compression(payload), pg_column_size(payload) FROM kombu_message"
    )
    if has_lz4(server_url):
        assert (method, size < len(LONG) / 20) == ("lz4", True)
    else:
        assert (method, size > len(LONG)) == (None, True)
    assert client.consume(queue).take_acked() == [LONG]


def test_dead_letters_and_results_which_stay_for_days_are_always_compressed(server_url: str) -> None:
    found = stored(server_url)
    assert len(found) == 6
    payload = found.pop("kombu_message.payload")
    if has_lz4(server_url):
        assert {payload, *found.values()} == {("x", "l")}
    else:
        assert (payload, set(found.values())) == (("e", ""), {("x", "")})


def test_going_back_leaves_nothing_of_it(server_url: str) -> None:
    celery_postgres.migrate(PostgresDSN.parse(server_url).libpq(), to=7)
    assert set(stored(server_url).values()) == {("x", "")}
    celery_postgres.create_schema(PostgresDSN.parse(server_url).libpq())
    assert stored(server_url)["kombu_message.payload"] != ("x", "")


def test_what_an_administrator_has_chosen_stays(server_url: str) -> None:
    chosen = ("kombu_message ALTER payload SET STORAGE EXTENDED", "kombu_message ALTER payload SET COMPRESSION pglz")
    libpq = PostgresDSN.parse(server_url).libpq()
    celery_postgres.migrate(libpq, to=7)
    run(server_url, *(f"ALTER TABLE {one}" for one in chosen))
    try:
        celery_postgres.create_schema(libpq)
        assert stored(server_url)["kombu_message.payload"] == ("x", "p")
    finally:
        run(server_url, "ALTER TABLE kombu_message ALTER payload SET COMPRESSION default")
        celery_postgres.migrate(libpq, to=7)
        celery_postgres.create_schema(libpq)
    assert stored(server_url)["kombu_message.payload"] != ("x", "p")
