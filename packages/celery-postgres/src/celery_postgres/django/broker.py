"""Which of Django's databases Celery uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from celery import Celery, current_app

from celery_postgres.database.address import database_of, is_postgresql, parameter_of
from celery_postgres.django import isolation
from celery_postgres.django.addresses import SCHEME, configured_dsn, dsn_of

#: The queue tool on the project's broker. `python -m celery_postgres` knows nothing of Django's settings.
TOOL = "celery -A PROJECT queues"
#: A database, and what its sessions set: `?options=-csearch_path%3D…` leads to other tables.
Place = tuple[tuple[str, ...], str]


def celery_app() -> Celery:
    """The Celery application of the project: the one that its `__init__.py` imports."""
    app: Celery = current_app._get_current_object()  # type: ignore[attr-defined]  # a proxy
    return app


def broker_urls(app: Celery) -> list[str]:
    """The broker's URLs in the settings, in the order in which Celery tries them; empty if none is set."""
    conf: Any = app.conf
    return _urls(conf.broker_url, conf.broker_write_url, conf.broker_read_url)


def urls(app: Celery) -> list[str]:
    """The URLs of the broker and of the result backend, where they name a PostgreSQL."""
    found = dict.fromkeys((*broker_urls(app), *_urls(app.conf.result_backend)))
    return [url for url in found if is_postgresql(url)]


def _urls(*settings: Any) -> list[str]:
    found: list[str] = []
    for setting in settings:
        several: Iterable[Any] = setting.split(";") if isinstance(setting, str) else setting or ()
        found += [url for url in several if isinstance(url, str) and url not in found]
    return found


@lru_cache
def place_of(dsn: str) -> Place:
    """Equal for two connection strings that lead to the same tables."""
    return database_of(dsn), parameter_of(dsn, "options")


def aliases_of(url: str) -> list[str]:
    """The aliases of DATABASES that lead to the tables of a URL, by the settings as they are outside of tests.

    While Django makes test databases, some aliases lead to a test database and others not yet.

    Raises:
        ValueError: the URL cannot be read; the text quotes no value.
    """
    return configured_aliases(place_of(configured_dsn(url)))


def configured_aliases(place: Place) -> list[str]:
    """The aliases of DATABASES that lead to a place outside of tests."""
    return _leading_to(place, lambda alias: configured_dsn(f"{SCHEME}://{alias}"))


def current_aliases(place: Place) -> list[str]:
    """The aliases of DATABASES that lead to a place now; in tests to a test database."""
    return _leading_to(place, dsn_of)


def used_aliases() -> list[str]:
    """The aliases of the databases that the broker or the result backend uses; in tests also those that stand for them.

    Raises:
        ValueError: the URL of one cannot be read.
    """
    used = [alias for url in urls(celery_app()) for alias in aliases_of(url)]
    return list(dict.fromkeys([*used, *(isolation.mirrored(used) if isolation.is_testing() else [])]))


def _leading_to(place: Place, dsn: Callable[[str], str]) -> list[str]:
    from django.db import connections

    found = []
    for alias in connections:
        if connections[alias].vendor == "postgresql":
            with suppress(ValueError):  # another's settings, which Django cannot use either
                if place_of(dsn(alias)) == place:
                    found.append(alias)
    return found
