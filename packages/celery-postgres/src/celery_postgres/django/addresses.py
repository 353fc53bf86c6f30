"""`django://ALIAS`: a broker and a result backend whose address is in Django's DATABASES.

The address is read when a connection is made: by then the tests of a project use their own database, whose name Django
has put into the settings.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from celery.app.backends import BACKEND_ALIASES

from celery_postgres.compat.upstream import transports
from celery_postgres.database.address import parsed, register_framework
from celery_postgres.django import isolation
from celery_postgres.installation import install

SCHEME = "django"
#: Members of OPTIONS that Django itself or the driver reads, and libpq does not know. The broker has its own isolation
#: level, its own pool and UTF-8.
_NOT_OF_LIBPQ = frozenset(
    {
        "assume_role",
        "async",
        "async_",
        "autocommit",
        "client_encoding",
        "connection_factory",
        "context",
        "cursor_factory",
        "isolation_level",
        "pool",
        "prepare_threshold",
        "row_factory",
        "server_side_binding",
    }
)
#: The settings that count before OPTIONS, and libpq's names for them.
_SETTINGS = {"USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}


class DatabaseSettingsError(ValueError):
    """An alias is not in DATABASES, or not one of a PostgreSQL. The text quotes no value."""


def database_url(alias: str = "default") -> str:
    """The broker, or the result backend, in the database of this alias: `django://ALIAS`.

    Makes this package the transport and the result backend of such URLs in every program that reads the settings.

    Example::

        # settings.py
        CELERY_BROKER_URL = CELERY_RESULT_BACKEND = database_url("default")
    """
    register()
    return f"{SCHEME}://{alias}"


def register() -> None:
    """Install the package, and read `django://` URLs from DATABASES. It may be called again."""
    install()
    register_framework(SCHEME, _address_of)
    BACKEND_ALIASES[SCHEME] = BACKEND_ALIASES["postgresql"]
    transports.TRANSPORT_ALIASES[SCHEME] = transports.TRANSPORT_ALIASES["postgresql"]


def dsn_of(alias: str) -> str:
    """The libpq connection string of an alias; in tests that of its test database.

    Raises:
        ValueError: it has none; the text says why and quotes no value.
    """
    return parsed(address_of(_settings_of(alias)), f"{SCHEME}://{alias}")


def configured_dsn(url: str) -> str:
    """The libpq connection string of a URL with any scheme; also in tests that of the real database.

    Raises:
        ValueError: it has none; the text says why and quotes no value.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() != SCHEME:
        return parsed(url, "broker")
    alias, query = _split(rest)
    return parsed(address_of(isolation.as_configured(alias, _settings_of(alias))) + query, f"{SCHEME}://{alias}")


def address_of(settings: dict[str, Any]) -> str:
    """The `postgresql://` URL for the settings of an alias."""
    return f"postgresql://?{urlencode(_parameters(settings), quote_via=quote)}"


def _address_of(rest: str) -> str:
    """The `postgresql://` URL for `ALIAS` or `ALIAS?parameter=value`, for Celery to connect to.

    Raises:
        DatabaseSettingsError: there is no such alias, or it is not one of a PostgreSQL.
        NotPublishedError: tests run, and the alias has no test database.
    """
    alias, query = _split(rest)
    address = address_of(_settings_of(alias)) + query
    isolation.verify(alias)
    return address


def _split(rest: str) -> tuple[str, str]:
    """The alias, and what is to be added to its address. Where libpq finds a parameter twice, the last one counts."""
    alias, _, query = rest.partition("?")
    return alias or "default", f"&{query}" if query else ""


def _settings_of(alias: str) -> dict[str, Any]:
    from django.db import connections

    if alias not in connections:
        raise DatabaseSettingsError(f"DATABASES has no {alias!r}, which {SCHEME}://{alias} names")
    connection = connections[alias]
    settings: dict[str, Any] = connection.settings_dict
    if connection.vendor != "postgresql":
        raise DatabaseSettingsError(
            f"DATABASES[{alias!r}] has the ENGINE {settings['ENGINE']}: {SCHEME}://{alias} needs a PostgreSQL, such as "
            "django.db.backends.postgresql"
        )
    return settings


def _parameters(settings: dict[str, Any]) -> dict[str, str]:
    """libpq's parameters for the settings of an alias, as Django's own backend combines them."""
    given = settings["OPTIONS"]
    parameters = {name: value for name, value in given.items() if name not in _NOT_OF_LIBPQ and value is not None}
    if settings["NAME"]:
        parameters.setdefault("dbname", settings["NAME"])
    parameters |= {_SETTINGS[name]: settings[name] for name in _SETTINGS if settings[name]}
    role = given.get("assume_role")
    if role:
        escaped = str(role).replace("\\", "\\\\").replace(" ", "\\ ")
        parameters["options"] = f"{parameters.get('options', '')} -c role={escaped}".strip()
    return {name: str(value) for name, value in parameters.items()}
