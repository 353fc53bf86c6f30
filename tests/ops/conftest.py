"""The files of ops/ as data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT

PROMETHEUS = CHECKOUT / "ops/prometheus"


@pytest.fixture(scope="session")
def load_yaml() -> Callable[[Path], Any]:
    """A function that reads a YAML file."""
    yaml = pytest.importorskip("ruamel.yaml", reason="it comes with check-jsonschema, which nixpkgs lacks")
    return lambda path: yaml.YAML(typ="safe", pure=True).load(path.read_text())


@pytest.fixture(scope="session")
def alerts(load_yaml: Callable[[Path], Any]) -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    groups = load_yaml(PROMETHEUS / "celery.rules.yml")["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
