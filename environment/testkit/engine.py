"""A server that speaks PostgreSQL's protocol and is no PostgreSQL: the first answers of other engines.

What each answers is from its own documentation. None of them can be installed here, so a test shows that a refusal is
one clear line, and not that an engine has been tried.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass, field

from environment.testkit.protocol_server import IDLE, ProtocolServer, message, packed

_PROCESS = 4711


@dataclass(frozen=True)
class Engine:
    """What an engine answers.

    Args:
        version: the value of ``version()``.
        number: the parameter ``server_version``.
        refuses: statements that it refuses, as patterns, each with its SQLSTATE and message.
        reports: more parameters that it reports when a session begins.
    """

    version: str
    number: str
    refuses: dict[str, tuple[str, str]] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)


class EngineServer(ProtocolServer):
    """A context manager: an engine behind a socket.

    Attributes:
        asked: the statements that its clients have sent.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__("engine")
        self._engine = engine
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return self.address("u", "d")

    def _answer(self, client: socket.socket) -> None:
        reported = {
            "server_version": self._engine.number,
            "client_encoding": "UTF8",
            "server_encoding": "UTF8",
            "DateStyle": "ISO, MDY",
            "standard_conforming_strings": "on",
        } | self._engine.reports
        words = b"".join(packed(b"S", f"{name}\0{value}\0".encode()) for name, value in reported.items())
        key = packed(b"K", struct.pack("!II", _PROCESS, 0))
        client.sendall(packed(b"R", bytes(4)) + words + key + packed(b"Z", IDLE))
        while True:
            kind, content = message(client)
            if kind != b"Q":
                return
            client.sendall(self._answers(content.rstrip(b"\0").decode()) + packed(b"Z", IDLE))

    def _answers(self, query: str) -> bytes:
        """The answers to the statements of one message, up to the first that is refused."""
        self.asked.append(query)
        answers = b""
        for statement in filter(None, map(str.strip, query.split(";"))):
            for pattern, (code, words) in self._engine.refuses.items():
                if re.search(pattern, statement, re.IGNORECASE):
                    fields = f"SERROR\0VERROR\0C{code}\0M{words}\0\0".encode()
                    return answers + packed(b"E", fields)
            answers += self._result(statement)
        return answers

    def _result(self, statement: str) -> bytes:
        if not statement.upper().startswith("SELECT"):
            return packed(b"C", f"{statement.split()[0].upper()}\0".encode())
        values = [self._engine.version if "version()" in statement else "1", str(_PROCESS)]
        columns = b"".join(b"c\0" + struct.pack("!IHIhih", 0, 0, kind, -1, -1, 0) for kind in (25, 23))
        row = b"".join(struct.pack("!I", len(value)) + value.encode() for value in values)
        head = struct.pack("!H", len(values))
        return packed(b"T", head + columns) + packed(b"D", head + row) + packed(b"C", b"SELECT 1\0")


_SYNTAX = "42601", "syntax error"
_FUNCTION = "42883", "unknown function"
_NOT_SUPPORTED = "0A000", "not supported"

#: By name. CockroachDB: github.com/cockroachdb/cockroach/issues/41522. Aurora DSQL: its user guide, "Unsupported
#: PostgreSQL features". YugabyteDB: LISTEN is of 2025.2.3 and later. The others: their pages on compatibility.
ENGINES = {
    "CockroachDB": Engine(
        "CockroachDB CCL v25.4.3 (x86_64-pc-linux-gnu)",
        "13.0.0",
        {r"^LISTEN|^NOTIFY": _NOT_SUPPORTED},
        {"crdb_version": "CockroachDB CCL v25.4.3"},
    ),
    "a CockroachDB that has LISTEN and reports nothing": Engine("CockroachDB CCL v27.1.0", "15.0.0"),
    "Amazon Aurora DSQL": Engine("PostgreSQL 16", "16.9", {r"^LISTEN|^NOTIFY|advisory": _NOT_SUPPORTED}),
    "YugabyteDB": Engine(
        "PostgreSQL 15.12-YB-2025.1.0.0-b0 on x86_64-pc-linux-gnu",
        "15.12-YB-2025.1.0.0-b0",
        {"^LISTEN": _NOT_SUPPORTED},
    ),
    "Amazon Redshift": Engine(
        "PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC gcc (GCC) 3.4.2, Redshift 1.0.12103",
        "8.0.2",
        {r"^LISTEN|^NOTIFY|advisory|SKIP LOCKED|plan_cache": _SYNTAX},
    ),
    "CrateDB": Engine("CrateDB 5.10.1 (built abc/NA)", "14.0", {r"^LISTEN|^NOTIFY|SKIP|advisory|pg_locks": _SYNTAX}),
    "Materialize": Engine(
        "PostgreSQL 9.5 on x86_64-unknown-linux-gnu (Materialize 26.1.0)",
        "9.5.0",
        {r"^LISTEN|^NOTIFY|SKIP|advisory|pg_locks": _SYNTAX},
    ),
    "RisingWave": Engine(
        "PostgreSQL 13.14.0-RisingWave-2.5.0", "13.14.0", {r"^LISTEN|^NOTIFY|SKIP|advisory": _FUNCTION}
    ),
    "PostgreSQL 14.1": Engine(  # Spanner behind PGAdapter, which reports the version that it stands for
        "PostgreSQL 14.1", "14.1", {r"^LISTEN|^NOTIFY|SKIP|advisory|pg_locks": _FUNCTION}
    ),
    "QuestDB": Engine("PostgreSQL 12.3, compiled by Visual C++ build 1914, QuestDB", "11.3", {"^LISTEN|SKIP": _SYNTAX}),
    "PostgreSQL 13.4": Engine("PostgreSQL 13.4 (Debian) on x86_64-pc-linux-gnu", "13.4"),
}
