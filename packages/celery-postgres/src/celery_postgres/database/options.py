"""Celery's settings `broker_transport_options` and `result_backend_transport_options`, checked."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from celery import states

from celery_postgres.database import keepalive
from celery_postgres.database import option_values as values
from celery_postgres.database.attempt_store import Retention as History
from celery_postgres.database.minute_store import Retention
from celery_postgres.database.placement import Databases, databases_of
from celery_postgres.database.session_settings import STATEMENT_TIMEOUT
from celery_postgres.errors import OptionError

logger = logging.getLogger(__name__)

#: The default of `max_decompressed`, in bytes.
MAX_DECOMPRESSED = 64 << 20
#: The default of `unresponsive_timeout`, in seconds.
UNRESPONSIVE_S = 600.0
#: Ten years.
_LONGEST_KEPT_S = 315_576_000
#: A month: an audit is not to be gone because a unit was mistaken.
_LEAST_ACTIONS_KEPT_S = 2_592_000
_RETENTION = Retention()
_HISTORY = History()
#: What `pickle` may be, in `result_backend_transport_options`.
PICKLES = ("write", "read", "refuse")

#: Read by Kombu itself, of every transport. Kombu also adds the retry policy of a publish to its transport options.
_KOMBU = frozenset(
    {
        "body_encoding",
        "callback",
        "connect_retries_timeout",
        "deadletter_queue",
        "errback",
        "interval_max",
        "interval_start",
        "interval_step",
        "max_retries",
        "on_revive",
        "retry_errors",
    }
)
#: Options of other transports that have no effect here, and what there is instead.
_WITHOUT_EFFECT = {
    **dict.fromkeys(
        ("visibility_timeout", "unacked_restore_limit", "peek_lock_seconds", "ack_deadline_seconds"),
        "a message stays claimed as long as its worker lives",
    ),
    **dict.fromkeys(
        ("unacked_key", "unacked_index_key", "unacked_mutex_key", "unacked_mutex_expire", "ack_emulation"),
        "claims are columns of kombu_message",
    ),
    **dict.fromkeys(("priority_steps", "sep"), "all priorities from 0 to 9 are used, and 9 is the highest"),
    "queue_order_strategy": "consumers take turns between their queues",
    **dict.fromkeys(("fanout_prefix", "fanout_patterns"), "exchanges are separate without it"),
    **dict.fromkeys(("polling_interval", "wait_time_seconds"), "consumers are notified"),
    **dict.fromkeys(("socket_connect_timeout",), "use connect_timeout"),
    **dict.fromkeys(("socket_timeout", "read_timeout", "write_timeout"), "use statement_timeout"),
    **dict.fromkeys(
        ("socket_keepalive", "socket_keepalive_options", "socket_settings"),
        "TCP keepalive is on; its parameters belong into the broker URL",
    ),
    **dict.fromkeys(("health_check_interval", "retry_on_timeout", "client_name"), "connections are checked by use"),
    **dict.fromkeys(
        ("max_connections", "max_overflow", "pool_pre_ping", "pool_recycle", "pool_size", "pool_timeout"),
        "a process has one connection for each thread that publishes at the same moment",
    ),
    **dict.fromkeys(("poolclass", "echo", "echo_pool", "future", "isolation_level"), "no engine of SQLAlchemy is used"),
    "confirm_publish": "a publish always returns after its commit",
    **dict.fromkeys(("heartbeat", "client_properties", "login_method"), "it belongs to AMQP's protocol"),
    **dict.fromkeys(("region", "is_secure", "sqs-creation-attributes", "queue_tags"), "it belongs to Amazon SQS"),
}
#: Options of other transports that cannot be ignored: messages would go elsewhere, or unprotected.
_REFUSED = {
    **dict.fromkeys(
        ("global_keyprefix", "queue_name_prefix"),
        "a schema for each keeps applications apart: ?options=-csearch_path%3D… in the broker URL",
    ),
    **dict.fromkeys(("queue_tablename", "message_tablename"), "the tables are kombu_queue and kombu_message"),
    **dict.fromkeys(
        ("ssl", "ssl_keyfile", "ssl_certfile", "ssl_trustfile", "ssl_skip_hostname_check"),
        "TLS is set in the broker URL: ?sslmode=verify-full&sslrootcert=…",
    ),
    **dict.fromkeys(
        ("virtual_host", "master_name", "sentinel_kwargs", "min_other_sentinels"),
        "the server and the database are set in the broker URL",
    ),
    "predefined_queues": "queues are declared by name",
    "execution_options": "the schema is set in the broker URL: ?options=-csearch_path%3D…",
}

#: As wide as the column of states.
_STATE = re.compile(r"[A-Z][A-Z0-9_]{0,49}")


@dataclass(frozen=True, slots=True)
class Options:
    """`broker_transport_options`.

    Attributes:
        connect_timeout: seconds until a server that does not answer counts as unreachable; None for Celery's
            `broker_connection_timeout`.
        statement_timeout: the longest time of one statement, as PostgreSQL writes it (`30s`, `500ms`), or in ms.
        listen_dsn: a direct address of the database, for notifications, if the broker's is that of a pooler; here as
            libpq's connection string.
        max_failures: after so many failed deliveries a message becomes a dead letter.
        max_decompressed: the largest body in bytes, decompressed.
        unresponsive_timeout: seconds until a process counts as dead that holds its session and raises no heartbeat.
        gossip: whether workers send each other their heartbeats.
        minutes_kept, hours_kept: seconds for which counts of tasks are kept by the minute, and then by the hour; with 0
            minutes nothing is counted.
        actions_kept: seconds for which it is kept what people did by hand; None for good.
        databases: those of the whole fleet; None if there is one.
        app_version: the release of the application, which workers report.
    """

    connect_timeout: int | None = None
    statement_timeout: str = STATEMENT_TIMEOUT
    listen_dsn: str | None = None
    max_failures: int = 5
    max_decompressed: int = MAX_DECOMPRESSED
    unresponsive_timeout: float = UNRESPONSIVE_S
    gossip: bool = False
    minutes_kept: float = _RETENTION.minutes_s
    hours_kept: float = _RETENTION.hours_s
    actions_kept: float | None = _RETENTION.actions_s
    databases: Databases | None = None
    app_version: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Check the options of a connection.

        Options of other transports that have no effect are named in the log, once in a process.

        Raises:
            OptionError: an option is unknown, cannot be ignored, or has a wrong value.
        """
        own = {field.name for field in fields(cls)}
        _check_names("broker_transport_options", set(given) - own - _KOMBU - {"connect_args"}, own | _KOMBU)
        checked: dict[str, Any] = {}
        if (connect_timeout := _connect_timeout(given)) is not None:
            checked["connect_timeout"] = connect_timeout
        if "statement_timeout" in given:
            checked["statement_timeout"] = values.duration("statement_timeout", given["statement_timeout"])
        if given.get("listen_dsn") is not None:
            checked["listen_dsn"] = values.address("listen_dsn", given["listen_dsn"])
        if "max_failures" in given:
            checked["max_failures"] = values.whole("max_failures", given["max_failures"], 1, 32767)
        if "max_decompressed" in given:
            checked["max_decompressed"] = values.whole("max_decompressed", given["max_decompressed"], 1)
        if "unresponsive_timeout" in given:
            # A heartbeat that stands still for a shorter time than a lease means nothing.
            checked["unresponsive_timeout"] = values.seconds(
                "unresponsive_timeout", given["unresponsive_timeout"], keepalive.LEASE_S
            )
        if "gossip" in given:
            checked["gossip"] = values.switch("gossip", given["gossip"])
        if given.get("app_version") is not None:
            checked["app_version"] = values.label("app_version", given["app_version"])
        for name in ("minutes_kept", "hours_kept"):
            if name in given:
                checked[name] = values.seconds(name, given[name], 0, _LONGEST_KEPT_S)
        if "actions_kept" in given:
            kept, bounds = given["actions_kept"], (_LEAST_ACTIONS_KEPT_S, _LONGEST_KEPT_S)
            checked["actions_kept"] = None if kept is None else float(values.whole("actions_kept", kept, *bounds))
        checked["databases"] = databases_of(given)
        return cls(**checked)


@dataclass(frozen=True, slots=True)
class ResultOptions:
    """`result_backend_transport_options`.

    Attributes:
        pickle: what is done with pickles, a word of `PICKLES`; None for the default of this release of Celery.
        waiting_state: the state of a task that only waits, for example `SENT`; None for Celery's PENDING.
        listen_dsn: a direct address of the database, on which `get()` waits, if the backend's is that of a pooler; here
            as libpq's connection string.
        describe: whether a result names its task, queue and worker, also without `result_extended`.
        history: seconds for which attempts that did not succeed are kept; 0 keeps none.
        history_rows: of these the newest that are kept.
    """

    pickle: str | None = None
    waiting_state: str | None = None
    listen_dsn: str | None = None
    describe: bool = True
    history: float = _HISTORY.seconds
    history_rows: int = _HISTORY.rows

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> ResultOptions:
        """Check the options of the result backend.

        Raises:
            OptionError: an option is unknown, or has a wrong value.
        """
        given = given or {}
        other = {"retry_policy", "global_keyprefix", "result_chord_ordered"} | _REFUSED.keys() | _WITHOUT_EFFECT.keys()
        own = {field.name for field in fields(cls)}
        _check_names("result_backend_transport_options", set(given) - own - other, own)
        _report("result_backend_transport_options", frozenset(other & given.keys()))
        if "pickle" in given and given["pickle"] not in PICKLES:
            raise OptionError(f"`pickle` in result_backend_transport_options is one of {', '.join(PICKLES)}")
        return cls(
            pickle=None if "pickle" not in given else str(given["pickle"]),
            waiting_state=_own_state("waiting_state", given.get("waiting_state")),
            listen_dsn=None if given.get("listen_dsn") is None else values.address("listen_dsn", given["listen_dsn"]),
            describe=values.switch("describe", given.get("describe", True)),
            history=values.seconds("history", given.get("history", _HISTORY.seconds), 0, _LONGEST_KEPT_S),
            history_rows=values.whole("history_rows", given.get("history_rows", _HISTORY.rows), 1, 10**12),
        )


def _own_state(name: str, value: Any) -> str | None:
    """A state that is not Celery's: those would say that a task has begun or ended."""
    if value is None or (isinstance(value, str) and _STATE.fullmatch(value) and value not in states.ALL_STATES):
        return value
    raise OptionError(
        f"{name} is a state of your own, such as 'SENT': up to 50 capital letters, digits and _, and none of Celery's"
    )


def _check_names(setting: str, names: set[str], known: set[str] | frozenset[str]) -> None:
    """Check the options that are not ours.

    Raises:
        OptionError: one is unknown, or cannot be ignored.
    """
    for name in sorted(names, key=str):
        if name in _REFUSED:
            raise OptionError(f"{setting}[{name!r}] is an option of another transport: {_REFUSED[name]}")
        if name not in _WITHOUT_EFFECT:
            raise OptionError(f"{setting} has no option {name!r}{_nearest(name, known)}")
    _report(setting, frozenset(names))


def _nearest(name: str, known: set[str] | frozenset[str]) -> str:
    import difflib  # for the error alone

    nearest = difflib.get_close_matches(str(name), sorted(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; it has {', '.join(sorted(known))}"


@lru_cache(maxsize=64)
def _report(setting: str, names: frozenset[str]) -> None:
    """Name the options without effect, once in a process."""
    if names:
        reasons = [f"{name} ({_WITHOUT_EFFECT.get(name, 'it belongs to another backend')})" for name in sorted(names)]
        logger.warning("%s: without effect on PostgreSQL: %s", setting, "; ".join(reasons))


def _connect_timeout(given: Mapping[str, Any]) -> int | None:
    """The option itself, or stock Kombu's way to write it: `{"connect_args": {"connect_timeout": 5}}`."""
    arguments = given.get("connect_args") or {}
    if set(arguments) - {"connect_timeout"}:
        raise OptionError(
            "broker_transport_options['connect_args'] may hold connect_timeout alone: other parameters of libpq belong "
            "into the broker URL, as in ?sslmode=require"
        )
    value = given["connect_timeout"] if "connect_timeout" in given else arguments.get("connect_timeout")
    return None if value is None else int(values.seconds("connect_timeout", value, 1))
