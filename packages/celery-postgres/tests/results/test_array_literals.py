"""PostgreSQL reads each array literal as the members that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from celery_postgres.database.array_literals import LARGE, binaries, booleans, floats, numbers, texts, timestamps

Read = Callable[[Any, str], Any]


@pytest.fixture(scope="module", params=["on", "off"])
def read(module_database: Any, request: pytest.FixtureRequest) -> Iterator[Read]:
    """Has the server read a literal, with and without `standard_conforming_strings`: then a backslash is an escape."""
    with closing(psycopg2.connect(module_database.url.replace("postgresql+psycopg2", "postgresql"))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT set_config('standard_conforming_strings', %s, false)", [request.param])
        cursor.execute("SET escape_string_warning = off")

        def read(literal: Any, kind: str) -> Any:
            cursor.execute(f"SELECT CAST(%s AS {kind})", [literal])
            ((value,),) = cursor.fetchall()
            return value

        yield read


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
TRICKY = ["NULL", "null", "", " ", "{}", "{a,b}", '"', "\\", '\\"', "\\\\", "a,b", "'", "$$", "%s", "%(x)s", "\n", "é"]


@settings(deadline=None)
@given(st.lists(st.none() | TEXTS | st.sampled_from(TRICKY)))
@example(TRICKY)
@example([None, "NULL", None])
def test_texts(read: Read, members: list[str | None]) -> None:
    assert read(texts(members), "text[]") == members


@settings(deadline=None)
@given(st.lists(st.none() | st.binary()))
@example([b"", None, bytes(range(256)), b"\\x00", b'"', b"NULL"])
@example([b"\\" * (LARGE + 1), None])
def test_binaries(read: Read, members: list[bytes | None]) -> None:
    found = read(binaries(members), "bytea[]")
    assert [one if one is None else bytes(one) for one in found] == members


def test_large_binaries_are_left_to_the_driver() -> None:
    members = [b"x" * LARGE, b"y"]
    assert binaries(members) is members
    assert isinstance(binaries([b"x" * LARGE]), str)


@settings(deadline=None)
@given(st.lists(st.none() | st.datetimes()))
@example([datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)])  # noqa: DTZ001
def test_timestamps(read: Read, members: list[datetime | None]) -> None:
    assert read(timestamps(members), "timestamp[]") == members


def test_a_timestamp_with_a_time_zone_is_an_error() -> None:
    with pytest.raises(ValueError, match="time zone"):
        timestamps([datetime.now(UTC)])


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(allow_nan=False)))
@example([1764509289.1234567, 5e-324, float("inf"), None])
def test_floats(read: Read, members: list[float | None]) -> None:
    assert read(floats(members), "float[]") == members


@settings(deadline=None)
@given(st.lists(st.booleans()))
def test_booleans(read: Read, members: list[bool]) -> None:
    assert read(booleans(members), "boolean[]") == members


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(-(1 << 63), (1 << 63) - 1)))
def test_numbers(read: Read, members: list[int | None]) -> None:
    assert read(numbers(members), "bigint[]") == members
