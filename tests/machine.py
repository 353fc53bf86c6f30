"""What a test needs of the machine and may not find there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    """Skip, unless SKELDIR_REQUIRE_PROGRAMS says that everything must be there: then fail."""
    if os.environ.get("SKELDIR_REQUIRE_PROGRAMS"):
        pytest.fail(reason)
    pytest.skip(reason)


def uninstalled(what: str) -> NoReturn:
    """The same for what comes from Debian."""
    unavailable(f"this machine has no {what} (.ci/programs installs it; .ci/run does so and runs these)")
