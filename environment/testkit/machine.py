"""Programs that a test needs and the machine may lack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from environment.temporary import TemporaryCluster


def unavailable(reason: str) -> NoReturn:
    """Skip, unless SKELDIR_REQUIRE_PROGRAMS says that everything must be there: then fail."""
    if os.environ.get("SKELDIR_REQUIRE_PROGRAMS"):
        pytest.fail(reason)
    pytest.skip(reason)


def uninstalled(what: str) -> NoReturn:
    """Skip or fail for a missing Debian package."""
    unavailable(f"this machine has no {what} (.ci/programs installs it; .ci/run does so and runs these)")


def debians_postgresql(why: str) -> TemporaryCluster:
    """Debian's newest, over TCP, not started; `why`: what it was built with and the wheel's was not."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        uninstalled(f"PostgreSQL of Debian's, and the wheel's was built without {why}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKELDIR_POSTGRES_BIN", str(found[-1].parent))
        return TemporaryCluster(int(found[-1].parts[-3]), tcp=True)
