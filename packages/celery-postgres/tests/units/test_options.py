"""Transport options: what is known, what is ignored and reported, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from celery.exceptions import ImproperlyConfigured

from celery_postgres.database import options
from celery_postgres.database.options import Options, ResultOptions
from celery_postgres.errors import OptionError
from celery_postgres.results.serializer import Pickle

checked = Options.of


@pytest.fixture(autouse=True)
def unreported() -> Iterator[None]:
    """Each test is the first of its process to report options."""
    options._report.cache_clear()
    yield
    options._report.cache_clear()


def test_the_defaults_are_those_of_the_parts_that_they_are_for() -> None:
    assert checked({}) == Options()
    assert set(options.PICKLES) == set(Pickle)


def test_every_option_reaches_its_field() -> None:
    given = {
        "connect_timeout": 2.5,
        "statement_timeout": "10 min",
        "listen_dsn": "postgresql://direct/db",
        "max_failures": 1,
        "max_decompressed": 1 << 20,
        "unresponsive_timeout": 30,
        "gossip": True,
        "app_version": "2026.11",
        "minutes_kept": 0,
        "hours_kept": 365 * 86_400,
        "actions_kept": 30 * 86_400,
    }
    kept = {"minutes_kept": 0.0, "hours_kept": 365 * 86_400.0, "actions_kept": 30 * 86_400.0}
    expected = Options(2, "10 min", "dbname=db host=direct", 1, 1 << 20, 30.0, True, app_version="2026.11", **kept)
    assert checked(given) == expected


def test_an_unknown_option_is_refused_and_the_nearest_one_is_named() -> None:
    with pytest.raises(OptionError, match=r"no option 'connect_timout'; did you mean 'connect_timeout'\?"):
        checked({"connect_timout": 5})
    with pytest.raises(ImproperlyConfigured, match=r"no option 'zzz'; it has .*max_failures"):
        checked({"zzz": 1})
    with pytest.raises(OptionError, match="no option 'pikle'; did you mean 'pickle'"):
        ResultOptions.of({"pikle": "read"})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("connect_timeout", 0, "number of seconds, from 1 to 2147483"),
        ("connect_timeout", "5", "number of seconds"),
        ("connect_args", {"sslmode": "require"}, "belong into the broker URL"),
        ("gossip", "yes", "gossip is True or False"),
        ("app_version", "two\nlines", "app_version is a text of at most 64 printable characters"),
        ("app_version", 7, "app_version is a text of at most 64 printable characters"),
        ("connect_args", {"connect_timeout": -1}, "connect_timeout is a number of seconds"),
        ("statement_timeout", "soon", "as PostgreSQL writes it"),
        ("statement_timeout", -1, "as PostgreSQL writes it"),
        ("statement_timeout", True, "as PostgreSQL writes it"),
        ("listen_dsn", 5, "listen_dsn is a text"),
        ("max_failures", 0, "from 1 to 32767"),
        ("max_failures", 40_000, "from 1 to 32767"),
        ("max_failures", 2.0, "whole number"),
        ("max_decompressed", None, "max_decompressed is a whole number, 1 or more"),
        ("unresponsive_timeout", float("inf"), "from 30 to"),
        ("unresponsive_timeout", 10**400, "from 30 to"),
        ("minutes_kept", -1, "minutes_kept is a number of seconds, from 0 to"),
        ("hours_kept", "a year", "hours_kept is a number of seconds, from 0 to"),
        ("actions_kept", 365, "actions_kept is a whole number, from 2592000 to"),
        ("connect_timeout", 10**12, "from 1 to"),
        ("statement_timeout", 10**12, "as PostgreSQL writes it"),
        ("listen_dsn", "garbage", "listen_dsn is not one that libpq understands"),
        ("listen_dsn", "redis://u:secret@h/0", "listen_dsn is not one that libpq understands"),
    ],
)
def test_a_wrong_value_is_refused_with_its_bounds(name: str, value: Any, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        checked({name: value})


def test_what_people_did_may_be_kept_for_good() -> None:
    assert checked({"actions_kept": None}).actions_kept is None


def test_a_refusal_quotes_no_value() -> None:
    for given in (["postgresql://u:secret@h/db"], "postgresql://u:secret%zz@h/db", "secret"):
        with pytest.raises(OptionError) as refused:
            checked({"listen_dsn": given})
        assert "secret" not in str(refused.value)


def test_no_value_is_no_option_where_a_setting_may_be_empty() -> None:
    assert checked({"listen_dsn": None, "connect_timeout": None}) == checked({"listen_dsn": ""}) == Options()


def test_stock_kombus_way_to_write_the_timeout_is_read() -> None:
    assert checked({"connect_args": {"connect_timeout": 7}}).connect_timeout == 7
    assert checked({"connect_args": {"connect_timeout": 7}, "connect_timeout": 3}).connect_timeout == 3


def test_what_kombu_reads_or_adds_itself_is_accepted_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2, "errback": None}
    assert checked({**policy, "retry_errors": None, "deadletter_queue": "lost"}) == Options()
    assert caplog.records == []


def test_options_of_redis_are_reported_once_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    redis = {"visibility_timeout": 43_200, "priority_steps": [0, 3, 6, 9], "socket_keepalive": True}
    with caplog.at_level(logging.WARNING, logger="celery_postgres"):
        assert checked(redis) == checked(redis) == Options()
    (record,) = caplog.records
    assert "a message stays claimed as long as its worker lives" in record.getMessage()
    assert "9 is the highest" in record.getMessage()
    assert "43200" not in record.getMessage()


@pytest.mark.parametrize("name", ["global_keyprefix", "queue_name_prefix", "queue_tablename", "ssl", "master_name"])
def test_options_of_others_that_decide_where_messages_go_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="an option of another transport"):
        checked({name: "x"})


def test_the_word_for_pickles_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    assert ResultOptions.of(None) == ResultOptions.of({}) == ResultOptions()
    assert ResultOptions.of({"pickle": Pickle.REFUSE}).pickle == "refuse"
    with pytest.raises(OptionError, match="one of write, read, refuse"):
        ResultOptions.of({"pickle": "never"})
    with caplog.at_level(logging.WARNING, logger="celery_postgres"):
        assert ResultOptions.of({"retry_policy": {}, "global_keyprefix": "x"}) == ResultOptions()
    (record,) = caplog.records
    assert "global_keyprefix" in record.getMessage()
    assert "retry_policy" in record.getMessage()


def test_the_word_for_waiting_tasks_is_checked() -> None:
    assert ResultOptions.of({"waiting_state": None}) == ResultOptions()
    assert ResultOptions.of({"waiting_state": "SENT"}).waiting_state == "SENT"
    for wrong in ("SUCCESS", "PENDING", "STARTED", "RECEIVED", "sent", "", "S" * 51, True, 1):
        with pytest.raises(OptionError, match="waiting_state is a state of your own, such as 'SENT'"):
            ResultOptions.of({"waiting_state": wrong})
