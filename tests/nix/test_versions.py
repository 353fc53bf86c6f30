"""The installed packages are within the ranges of pyproject.toml, whoever installed them: pip, Nix or Replit."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.requirements import Requirement

from environment.sources import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def installed_version(name: str) -> str:
    """nixpkgs carries psycopg2, which PyPI calls psycopg2-binary where libpq is inside."""
    try:
        return version(name)
    except PackageNotFoundError:
        return version(name.removesuffix("-binary"))


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_the_installed_version_is_within_the_range(requirement: Requirement) -> None:
    installed = installed_version(requirement.name)
    assert requirement.specifier.contains(installed, prereleases=True), f"{requirement.name} is {installed}"
