"""Kombu's integration tests of what every transport does, on the broker that TEST_BROKER names.

It is copied into ``t/integration`` of Kombu's sdist, where each transport has such a module. Kombu's own modules for
Redis and RabbitMQ test what only these have.
"""

import os
from contextlib import suppress
from typing import Any

import kombu
import pytest
from t.integration import common

BROKER, NOBODY = os.environ["TEST_BROKER"], os.environ["TEST_NOBODY"]


@pytest.fixture
def connection() -> Any:
    return kombu.Connection(BROKER)


@pytest.fixture
def invalid_connection() -> Any:
    return kombu.Connection(NOBODY)


@pytest.fixture
def failover_connection() -> Any:
    return kombu.Connection(f"{NOBODY};{BROKER}")


class test_BasicFunctionality(common.BasicFunctionality):  # noqa: N801  Kombu's python_classes
    pass


class test_ExchangeTypes(common.BaseExchangeTypes):  # noqa: N801
    pass


class test_TimeToLive(common.BaseTimeToLive):  # noqa: N801
    pass


class Draining(kombu.Connection):
    """As with RabbitMQ's driver, all that is there comes at once; with Kombu's virtual transports one message."""

    def drain_events(self, **options: Any) -> None:
        super().drain_events(**options)
        with suppress(TimeoutError):
            while True:
                super().drain_events(timeout=0.5)


class test_Priority(common.BasePriority):  # noqa: N801
    # With Redis, as Kombu uses it, 0 goes before 9.
    PRIORITY_ORDER = "desc" if BROKER.startswith("redis") else "asc"

    @pytest.fixture
    def connection(self) -> Any:
        return Draining(BROKER)


class test_Message(common.BaseMessage):  # noqa: N801
    pass


class test_EventLoop(common.BaseEventLoop):  # noqa: N801
    pass


class test_Failover(common.BaseFailover):  # noqa: N801
    pass
