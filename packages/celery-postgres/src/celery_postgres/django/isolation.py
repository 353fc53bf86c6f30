"""Django's tests publish into their own databases, and into no other.

Django makes a test database for each alias that a test names in `databases`, and blocks its own connections to the
others. Celery's connections are not Django's: without this module they would lead past that block, into the real queue.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from celery_postgres.errors import NotPublishedError

#: The NAME of each alias as the settings have it. Django replaces it by that of the test database.
_names: dict[str, Any] = {}


def remember() -> None:
    """Note the databases of the settings. Called before Django replaces any of them."""
    from django.db import connections

    _names.update({alias: settings.get("NAME") for alias, settings in connections.settings.items()})


def as_configured(alias: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an alias, with the real database in place of a test database."""
    return {**settings, "NAME": _names.get(alias, settings["NAME"])}


def is_testing() -> bool:
    """Whether a test runner has set Django up. Outside of tests this is a look-up that finds nothing."""
    state = getattr(sys.modules.get("django.test.utils"), "_TestState", None)
    return hasattr(state, "saved_data")


def verify(alias: str) -> None:
    """Refuse the real database of an alias while tests run.

    Raises:
        NotPublishedError: no test database was made for the alias.
    """
    if is_testing() and _is_real(alias):
        raise NotPublishedError(
            f"the tests have no test database for {alias!r}, and Celery must not use the real one: "
            f"add {alias!r} to `databases` of the test class"
        )


def verify_use(aliases: list[str]) -> None:
    """Refuse a database that the test which runs now may not use.

    Args:
        aliases: those that lead to the database.

    Raises:
        NotPublishedError: it is a real one, or none of them is in `databases` of the test.
    """
    if not aliases or any(not _is_real(alias) and not _is_blocked(alias) for alias in aliases):
        return
    for alias in aliases:
        verify(alias)
    named = " or ".join(map(repr, aliases))
    raise NotPublishedError(
        f"this test may not use the database of Celery's broker: add {named} to `databases` of the test class, or of "
        "pytest's mark django_db"
    )


def refuse_real(alias: str) -> None:
    """Refuse a connection with the real database of an alias that has a test database now.

    Raises:
        NotPublishedError: always.
    """
    raise NotPublishedError(
        f"Celery is connected with the real database of {alias!r}, and tests must not publish there: set "
        f"broker_url to database_url({alias!r}), and publish nothing before the test databases are made"
    )


def mirrored(aliases: list[str]) -> list[str]:
    """The aliases whose test databases stand for these: TEST MIRROR."""
    from django.db import connections

    return [_test_settings(connections[alias].settings_dict).get("MIRROR") or alias for alias in aliases]


def _is_real(alias: str) -> bool:
    from django.db import connections

    settings: dict[str, Any] = connections[alias].settings_dict
    name, of_tests = settings["NAME"], _test_settings(settings).get("NAME")
    if name == of_tests:
        return False
    if alias in _names:
        return bool(name == _names[alias])
    return not str(name).startswith(of_tests or "test_")  # without the app, which notes the names


def _test_settings(settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = settings.get("TEST") or {}
    return found


class _Unconnected:
    """Stands for a connection of an alias that is to be opened in this thread."""

    connection = None
    in_atomic_block = closed_in_transaction = False
    wrap_database_errors = nullcontext()

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def connect(self) -> None:
        """Nothing is opened."""

    ensure_connection = connect


def _is_blocked(alias: str) -> bool:
    """Whether Django, or pytest-django, would refuse a new connection of an alias now: both replace this method, for
    all threads."""
    from django.core.exceptions import SynchronousOnlyOperation
    from django.db.backends.base.base import BaseDatabaseWrapper

    try:
        BaseDatabaseWrapper.ensure_connection(_Unconnected(alias))
    except (AssertionError, RuntimeError):
        return True
    except SynchronousOnlyOperation:  # in a coroutine; it is Django's own method that says so
        return False
    return False
