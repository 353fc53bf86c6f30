"""One PostgreSQL address: parsed from any common form, and written in the forms that the components need.

Every component (SQLAlchemy, Kombu, Celery, Alembic) gets its URL from here, so that no component loses a TLS parameter
or an unusual password that another one honors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from app.core.errors import LoggableError
from celery_postgres.dsn import ASYNCPG_ONLY, is_unencoded, sslmode_of

#: The schemes that mean PostgreSQL. The application chooses the driver (psycopg2), so the driver's name is dropped.
SCHEMES = frozenset(
    {
        "postgres",
        "postgresql",
        "postgresql+asyncpg",
        "postgresql+psycopg",
        "postgresql+psycopg2",
    }
)
DEFAULT_PORT = "5432"


class DatabaseURLError(LoggableError, ValueError):
    """A database URL that cannot be used. The message tells what to change and never contains the password."""


@dataclass(frozen=True, slots=True)
class PostgresDSN:
    """The parts of one address, unquoted.

    `hosts` and `ports` have the same length; a host may be a folder (unix socket) and a port may be empty.
    `parameters` are the remaining libpq parameters in the order in which they were written.
    """

    user: str
    password: str | None
    hosts: tuple[str, ...]
    ports: tuple[str, ...]
    database: str
    parameters: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"PostgresDSN({self.describe()})"

    @classmethod
    def parse(cls, url: str) -> PostgresDSN:
        """Read `url`.

        Accepts `postgres://`, `postgresql://` and `postgresql+{asyncpg,psycopg,psycopg2}://`; passwords with
        percent-encoded characters; no password; a unix socket as `?host=/dir` or as an encoded host; several
        hosts as libpq (`h1:1,h2:2`), as SQLAlchemy (`?host=h1:1&host=h2:2`) or as `?host=h1,h2&port=1,2`.

        Raises:
            DatabaseURLError: it is not PostgreSQL, or something in it cannot be used.
        """
        scheme, separator, rest = url.strip().partition("://")
        if not separator or scheme.lower() not in SCHEMES:
            raise DatabaseURLError(
                "DATABASE_URL must be a PostgreSQL URL such as postgresql://user:password@host:5432/database"
                + (
                    f", not {scheme.lower()}://"
                    if re.fullmatch(r"[\w+.-]{1,29}", scheme, re.ASCII) and separator
                    else ""
                )
            )
        rest, _, query = rest.partition("?")
        authority, _, database = rest.partition("/")
        credentials, _, hostlist = authority.rpartition("@")
        if "#" in rest or is_unencoded(url.partition("://")[2]):
            raise DatabaseURLError(
                "DATABASE_URL: percent-encode the characters @ : / % ? # in the user name and the password "
                "(@ is %40, : is %3A, / is %2F, % is %25, ? is %3F, # is %23)"
            )
        user, has_password, password = credentials.partition(":")
        try:
            url.encode()
            parameters = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
            user, password, database = (unquote(one, errors="strict") for one in (user, password, database))
            hosts, ports = _hosts(hostlist, parameters)
        except DatabaseURLError:
            raise
        except UnicodeError:
            raise DatabaseURLError("DATABASE_URL: percent-encoded parts must be UTF-8") from None
        except ValueError:
            raise DatabaseURLError(
                "DATABASE_URL: the text after the ? must be name=value pairs joined by & "
                "(a ? in the password is written %3F)"
            ) from None
        values = dict(parameters)
        dsn = cls(
            user=values.get("user") or user,
            password=values.get("password", password if has_password else None),
            hosts=hosts,
            ports=ports,
            database=values.get("dbname") or database,
            parameters=_libpq_parameters(parameters),
        )
        if not dsn.database and "service" not in values:
            raise DatabaseURLError("DATABASE_URL names no database: write it after the host, as in …/database")
        dsn.libpq()
        return dsn

    def describe(self) -> str:
        """The address for people: `host:port/database`, without user and password."""
        pairs = zip(self.hosts, self.ports, strict=True)
        where = ",".join(f"{host or 'localhost'}{':' + port if port else ''}" for host, port in pairs)
        return f"{where or 'local socket'}/{self.database}"

    def url(self) -> str:
        """`postgresql://…`, which SQLAlchemy 2.0 passes to psycopg2 and which libpq accepts too."""
        credentials = quote(self.user, safe="")
        if self.password is not None:
            credentials += ":" + quote(self.password, safe="")
        netloc, extra = "", []
        if len(self.hosts) == 1 and self.hosts[0] and not self.hosts[0].startswith(("/", "@")):
            host, port = self.hosts[0], self.ports[0]
            netloc = (f"[{quote(host, safe=':')}]" if ":" in host else quote(host, safe="")) + (
                f":{port}" if port else ""
            )
        elif self.hosts:
            # Kombu's as_uri() raises ValueError on `h1:5432,h2:5433`, and Celery calls it for every banner and
            # error line: several hosts and sockets go into the query.
            extra = [("host", ",".join(self.hosts))] if any(self.hosts) or len(self.hosts) > 1 else []
            if any(self.ports):
                extra.append(("port", ",".join(port or DEFAULT_PORT for port in self.ports)))
        path = quote(self.database, safe="")
        if path != self.database:
            # SQLAlchemy uses the path unchanged, libpq decodes it; both decode a parameter.
            path, extra = "", [*extra, ("dbname", self.database)]
        query = "&".join(f"{name}={quote(value, safe='/:,')}" for name, value in [*extra, *self.parameters])
        return (
            "postgresql://"
            + (credentials + "@" if credentials else "")
            + f"{netloc}/{path}"
            + (f"?{query}" if query else "")
        )

    def libpq(self) -> str:
        """The same as a libpq connection string (`host=… dbname=…`), checked by libpq itself."""
        values = dict(self.parameters)
        if self.hosts:
            if any(self.hosts) or len(self.hosts) > 1:
                values["host"] = ",".join(self.hosts)
            if any(self.ports):
                values["port"] = ",".join(port or DEFAULT_PORT for port in self.ports)
        named = {"user": self.user, "password": self.password, "dbname": self.database}
        values |= {name: value for name, value in named.items() if value}
        for name in values:
            if not _is_parameter(name):
                # A string that is not a word may be part of a password.
                said = f" {name!r}" if re.fullmatch(r"\w{1,40}", name, re.ASCII) else " of that name"
                raise DatabaseURLError(f"DATABASE_URL: libpq has no parameter{said}; remove it or correct its name")
        if "\0" in "".join(values.values()):
            raise DatabaseURLError("DATABASE_URL: a NUL character (%00) cannot be part of it")
        return make_dsn(**values)


def _is_parameter(name: str) -> bool:
    if not re.fullmatch(r"\w+", name, re.ASCII):
        return False  # libpq would read several parameters from it
    try:
        parse_dsn(f"{name}=''")
    except psycopg2.ProgrammingError:
        return False
    return True


def _hosts(hostlist: str, parameters: list[tuple[str, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hosts and ports. The parameters `host` and `port` take precedence over the authority, as in libpq."""
    written = [_host_and_port(entry) for entry in hostlist.split(",")] if hostlist else []
    authority = [(unquote(host, errors="strict"), port) for host, port in written]
    named = [_host_and_port(entry) for entry in _listed("host", parameters)]
    hosts = [host for host, _ in named or authority]
    ports = _listed("port", parameters) or [port for _, port in named if port] or [port for _, port in authority]
    if ports and not hosts:
        hosts = [""]  # libpq's default socket
    if len(ports) == 1:
        ports = ports * len(hosts)
    ports = ports or [""] * len(hosts)
    if len(hosts) != len(ports):
        raise DatabaseURLError(
            f"DATABASE_URL: {len(hosts)} hosts but {len(ports)} ports; write one port, or one for each host"
        )
    if not all(map(_is_host, hosts)):
        raise DatabaseURLError("DATABASE_URL: a host must be a name, an address or a folder, without , [ ] and spaces")
    for port in ports:
        if port and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
            raise DatabaseURLError(
                "DATABASE_URL: a port must be a number from 1 to 65535 (a : or / in the password is written %3A or %2F)"
            )
    return tuple(hosts), tuple(ports)


def _is_host(host: str) -> bool:
    if host.startswith(("/", "@")):
        return "," not in host
    return not set(host) & set(",[]/ ") and host.count(":") != 1


def _listed(name: str, parameters: list[tuple[str, str]]) -> list[str]:
    """The values of a parameter that may be repeated or contain a comma-separated list."""
    return [entry for key, value in parameters if key == name and value for entry in value.split(",")]


def _host_and_port(entry: str) -> tuple[str, str]:
    if entry.startswith(("/", "@")):  # a folder, or an abstract socket
        return entry, ""
    if entry.startswith("[") and "]" in entry:
        host, _, port = entry[1:].partition("]")
        return host, port.removeprefix(":")
    if entry.count(":") > 1:  # an IPv6 address without brackets, as `?host=::1`
        return entry, ""
    host, _, port = entry.partition(":")
    return host, port


def _libpq_parameters(parameters: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The parameters that stay in the query: all but the address, with asyncpg's names translated into libpq's."""
    placed = {"host", "port", "user", "password", "dbname"}
    kept = {name: value for name, value in parameters if name not in placed | ASYNCPG_ONLY | {"ssl"}}
    ssl = dict(parameters).get("ssl")
    if ssl is not None:
        mode = sslmode_of(ssl)
        if kept.setdefault("sslmode", mode) != mode:
            raise DatabaseURLError("DATABASE_URL: ssl= and sslmode= contradict each other; keep sslmode=")
    modes = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
    if kept.get("sslmode", "prefer") not in modes:
        raise DatabaseURLError(f"DATABASE_URL: sslmode must be one of {', '.join(sorted(modes))}")
    return tuple(kept.items())
