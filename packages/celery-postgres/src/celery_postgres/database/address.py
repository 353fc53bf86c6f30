"""Broker URLs and libpq's connection strings."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

#: The schemes before `://`, once Kombu has removed `sqla+`: with or without a driver, or the driver alone, which is
#: left when the alias was `postgresql` itself.
SCHEMES = re.compile(r"(postgres|postgresql)(\+(psycopg2|psycopg|asyncpg))?|psycopg2|psycopg|asyncpg")
#: Parameters of SQLAlchemy's asyncpg dialect and of asyncpg itself that do not affect the connection.
ASYNCPG_ONLY = frozenset(
    {
        "async_fallback",
        "command_timeout",
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
        "statement_cache_size",
    }
)
#: Schemes of frameworks, whose settings hold the address: what returns a `postgresql://` URL for the part after `://`.
_frameworks: dict[str, Callable[[str], str]] = {}
#: asyncpg accepts libpq's words and booleans for `ssl` (asyncpg.connect, parameter `ssl`).
_SSL_BOOLEANS = {
    "true": "require",
    "on": "require",
    "1": "require",
    "false": "disable",
    "off": "disable",
    "0": "disable",
}
#: A parameter and its value.  libpq decodes names too: `p%61ssword` is a password.
_PARAMETER = re.compile(r"([^?&=]*)=[^&]*")


def register_framework(scheme: str, address_of: Callable[[str], str]) -> None:
    """Read URLs with this scheme from the settings of a framework, each time a connection is made.

    Args:
        address_of: returns the `postgresql://` URL for the part after `://`.
    """
    _frameworks[scheme] = address_of


def is_postgresql(url: str | None) -> bool:
    """Whether a URL, with or without an alias such as `sqla+` before it, names a PostgreSQL."""
    scheme, separator, _ = (url or "").partition("://")
    scheme = re.sub(r"^(sqla|sqlalchemy|db|database)\+", "", scheme.lower())
    return bool(separator) and (scheme in _frameworks or SCHEMES.fullmatch(scheme) is not None)


def libpq_dsn(client: Any) -> str:
    """The libpq connection string of a Kombu connection.

    All libpq parameters of the query are kept. Several hosts are written `postgresql://u:p@/db?host=h1,h2&port=1,2`.

    Raises:
        ValueError: libpq cannot read it. The message does not quote it.
    """
    url = client.hostname or ""
    if "://" not in url:  # Connection.switch() has taken the URL apart
        parts = {
            "host": client.hostname,
            "port": client.port,
            "user": client.userid,
            "password": client.password,
            "dbname": client.virtual_host,
        }
        _refuse_callable(client.password)
        return str(make_dsn(**{name: str(value) for name, value in parts.items() if value}))
    _refuse_callable(getattr(client, "password", None))
    return parsed(url, "broker")


def _refuse_callable(password: Any) -> None:
    """Kombu 5.7 takes a function in place of a password, and only its own transport for AMQP calls it.

    Raises:
        ValueError: it is one.
    """
    if callable(password):
        raise ValueError(  # noqa: TRY004  # as for every other address that cannot be used
            "the broker's password is a function, which this transport does not call: put it into the URL, or let "
            "libpq read it at each connection from a file (passfile=… in the URL, or PGPASSFILE)"
        )


def parsed(url: str, whose: str) -> str:
    """The libpq connection string of a URL with any scheme.

    Args:
        whose: names the URL in the error.

    Raises:
        ValueError: libpq cannot read it. The message does not quote it.
    """
    scheme, _, rest = url.partition("://")
    address_of = _frameworks.get(scheme.lower())
    if address_of is not None:
        scheme, _, rest = address_of(rest).partition("://")
    if scheme.lower().endswith("asyncpg"):
        rest = _without_asyncpg(rest, whose)
    try:
        # libpq's own URI parser: it knows every form and parameter that libpq knows.
        return _with_ports(_read("postgresql://" + rest), f"{whose} URL")
    except _UNREADABLE:
        wrong = _unreadable_parameter(rest)
        raise ValueError(
            f"the {whose} URL is not one that libpq understands: "
            + (
                f"it cannot use the parameter {wrong}"
                if wrong
                else "percent-encode special characters in the user name and the password, and use libpq's parameter "
                "names"
            )
        ) from None


def sslmode_of(ssl: str) -> str:
    """libpq's `sslmode` for the value of asyncpg's `ssl`."""
    return _SSL_BOOLEANS.get(ssl.lower(), ssl.lower())


def _without_asyncpg(rest: str, whose: str) -> str:
    """The part of a URL after `://`, with asyncpg's parameters replaced by libpq's.

    Raises:
        ValueError: both are given and contradict each other: one would be ignored in silence.
    """
    path, _, query = rest.partition("?")
    if "@" in query:
        return rest  # what looks like a parameter may be part of a password, and is refused as such
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    kept = [(name, value) for name, _, value in pairs if name not in ASYNCPG_ONLY]
    kept = [("sslmode", sslmode_of(value)) if name == "ssl" else (name, value) for name, value in kept]
    if len({value for name, value in kept if name == "sslmode"}) > 1:
        raise ValueError(f"the {whose} URL contradicts itself in ssl= and sslmode=: keep sslmode=")
    return path + ("?" if kept else "") + "&".join(f"{name}={value}" for name, value in kept)


def direct_dsn(given: str, whose: str = "listen_dsn") -> str:
    """The libpq connection string of an address: a URL in any form that the broker's may have, or libpq's own
    `name=value` words.

    Args:
        whose: what the error calls the address.

    Raises:
        ValueError: libpq cannot read it. The message does not quote it.
    """
    if is_postgresql(given):
        return parsed(given, whose)
    try:
        return _with_ports(_read(given), whose)
    except _UNREADABLE:
        raise ValueError(f"the {whose} is not one that libpq understands: write it as postgresql://…") from None


#: libpq accepts a value that is not UTF-8 once decoded, and psycopg2 cannot return it.
_UNREADABLE = (psycopg2.ProgrammingError, UnicodeError)


def _read(given: str) -> str:
    _, separator, rest = given.partition("://")
    if "\0" in given or (separator and is_unencoded(rest)):  # libpq ends at a NUL
        raise psycopg2.ProgrammingError
    return str(make_dsn(**parse_dsn(given)))


def _with_ports(dsn: str, whose: str) -> str:
    """The same connection string. libpq itself reads the ports when it connects.

    Raises:
        ValueError: one is no port. It is not quoted, because it may be the end of a password.
    """
    ports = [port.strip() for port in str(parse_dsn(dsn).get("port", "")).split(",")]
    if all(not port or (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16) for port in ports):
        return dsn
    raise ValueError(f"the {whose} has a port that is no number from 1 to 65535")


def is_unencoded(rest: str) -> bool:
    """Whether the part of a URL after `://` has an @ that only a password without percent-encoding can have put there.

    libpq reads `u:one/two@host/db` as the host `u` and the database `two@host/db`, and `u:one@two@host/db` as the host
    `two@host`; hosts and databases are shown in logs.
    """
    path, _, query = rest.partition("?")
    if path.count("@") > 1 or "@" in path.partition("/")[2] or ("@" in query and "@" not in path):
        return True
    hosts, _, _ = path.rpartition("@")[2].partition("/")
    if hosts.count("[") != hosts.count("]"):
        return True  # libpq reads on to the ], over any / ? @
    pairs = (pair.partition("=") for pair in query.split("&"))
    # The first character of a host may be an @: an abstract socket.
    return any(unquote(name) in ("host", "dbname") and "@" in value[1:] for name, _, value in pairs)


def _unreadable_parameter(rest: str) -> str | None:
    """The name of the first parameter that libpq refuses; None if it is not certain to be one."""
    _, _, query = rest.partition("?")
    if "@" in query:
        return None  # what looks like a parameter may be a password with an unescaped question mark
    for pair in query.split("&"):
        name, _, _ = pair.partition("=")
        try:
            parse_dsn(f"postgresql:///?{pair}")
        except _UNREADABLE:
            return name if re.fullmatch(r"\w{1,40}", name) else None
    return None


@lru_cache
def database_of(dsn: str) -> tuple[str, ...]:
    """What identifies the database of a connection string: equal for two strings that lead to the same database."""
    parts = parse_dsn(dsn)
    user = parts.get("user", "")
    named = ("service", ""), ("host", ""), ("hostaddr", ""), ("port", "5432"), ("dbname", user)
    return tuple(str(parts.get(name, default)) for name, default in named)


def parameter_of(dsn: str, name: str) -> str:
    """The value of a parameter in a connection string; "" without it."""
    return str(parse_dsn(dsn).get(name, ""))


def masked(url: str, mask: str = "**") -> str:
    """The URL without its password, at any place. Never raises, because Celery shows it in banners and error lines."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    # Up to the last @: a password that was not encoded may contain any of @ / ?.
    credentials, at, address = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    if colon:
        credentials = f"{user}:{mask}"

    def hidden(parameter: re.Match[str]) -> str:
        name = parameter[1]
        return f"{name}={mask}" if unquote(name).endswith("password") else parameter[0]

    return f"{scheme}{separator}{_PARAMETER.sub(hidden, credentials + at + address)}"


def describe(dsn: str) -> str:
    """The hosts and the database of a connection string, for people."""
    parts = parse_dsn(dsn)
    return f"{parts.get('host', 'local socket')}/{parts.get('dbname', parts.get('user', ''))}"


def switched_parameters(url: str) -> dict[str, str]:
    """The parameters of Kombu's `Connection` after a switch to `url`, as its constructor has them."""
    scheme, _, _ = url.partition("://")
    if "+" in scheme:
        transport, hostname = url.split("+", 1)
        return {"transport": transport, "hostname": hostname}
    return {"transport": unquote(urlsplit(url).scheme), "hostname": url}
