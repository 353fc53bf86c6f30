"""A server that speaks PostgreSQL's protocol and is no PostgreSQL: the first answers of other engines.

What each answers is from its own documentation. None of them can be installed here, so a test shows that a refusal is
one clear line, and not that an engine has been tried.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import struct
import tempfile
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import quote

from environment.testkit.pooler import _IDLE, _exactly, _message, _packed

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
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


class EngineServer:
    """A context manager: an engine behind a socket.

    Attributes:
        asked: the statements that its clients have sent.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.asked: list[str] = []
        self._open: list[socket.socket] = []
        self._folder = tempfile.mkdtemp(prefix="engine-")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder}/.s.PGSQL.5432")
        self._listener.listen()

    @property
    def url(self) -> str:
        return f"postgresql://u@/d?host={quote(self._folder)}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="engine", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=[client], name="engine's client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            length, version = struct.unpack("!II", _exactly(client, 8))
            while version in (_SSL_REQUEST, _GSS_REQUEST):
                client.sendall(b"N")
                length, version = struct.unpack("!II", _exactly(client, 8))
            _exactly(client, length - 8)
            reported = {
                "server_version": self._engine.number,
                "client_encoding": "UTF8",
                "server_encoding": "UTF8",
                "DateStyle": "ISO, MDY",
                "standard_conforming_strings": "on",
            } | self._engine.reports
            words = b"".join(_packed(b"S", f"{name}\0{value}\0".encode()) for name, value in reported.items())
            key = _packed(b"K", struct.pack("!II", _PROCESS, 0))
            client.sendall(_packed(b"R", bytes(4)) + words + key + _packed(b"Z", _IDLE))
            while True:
                kind, content = _message(client)
                if kind != b"Q":
                    return
                client.sendall(self._answers(content.rstrip(b"\0").decode()) + _packed(b"Z", _IDLE))

    def _answers(self, query: str) -> bytes:
        """The answers to the statements of one message, up to the first that is refused."""
        self.asked.append(query)
        answers = b""
        for statement in filter(None, map(str.strip, query.split(";"))):
            for pattern, (code, message) in self._engine.refuses.items():
                if re.search(pattern, statement, re.IGNORECASE):
                    fields = f"SERROR\0VERROR\0C{code}\0M{message}\0\0".encode()
                    return answers + _packed(b"E", fields)
            answers += self._answer(statement)
        return answers

    def _answer(self, statement: str) -> bytes:
        if not statement.upper().startswith("SELECT"):
            return _packed(b"C", f"{statement.split()[0].upper()}\0".encode())
        values = [self._engine.version if "version()" in statement else "1", str(_PROCESS)]
        columns = b"".join(b"c\0" + struct.pack("!IHIhih", 0, 0, kind, -1, -1, 0) for kind in (25, 23))
        row = b"".join(struct.pack("!I", len(value)) + value.encode() for value in values)
        head = struct.pack("!H", len(values))
        return _packed(b"T", head + columns) + _packed(b"D", head + row) + _packed(b"C", b"SELECT 1\0")


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
