"""The locks in requirements/ are whole, and agree with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from environment.commands import LOCKS
from environment.sources import CHECKOUT
from environment.tools import EXTRAS

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def entries(lock: str) -> dict[str, list[str]]:
    """Each pinned requirement of a lock, with its hashes."""
    text = (CHECKOUT / "requirements" / f"{lock}.txt").read_text()
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", "").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line)
            assert requirement not in found
            found[requirement] = hashes
    return found


def unconditional(lock: str) -> dict[str, list[str]]:
    """The same without the platforms that a package is needed on."""
    return {requirement.partition(";")[0].strip(): hashes for requirement, hashes in entries(lock).items()}


def pins(lock: str) -> dict[str, Version]:
    """The version of each package."""
    requirements = [Requirement(entry) for entry in entries(lock)]
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in requirements}


def declared(lock: str) -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *(d for e in EXTRAS[lock] for d in extras[e])]]


@pytest.mark.parametrize("lock", EXTRAS)
def test_every_line_has_one_version_and_its_hashes(lock: str) -> None:
    for requirement, hashes in entries(lock).items():
        assert re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; .+)?", requirement.strip())
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value.strip()) for value in hashes)


@pytest.mark.parametrize("lock", EXTRAS)
def test_no_line_names_a_host_or_a_machines_folder(lock: str) -> None:
    text = (CHECKOUT / "requirements" / f"{lock}.txt").read_text()
    assert not re.search(r"://|index-url|find-links|file:|(^|\s)/", text)
    assert "./dev lock" in text.splitlines()[1]


@pytest.mark.parametrize("lock", EXTRAS)
def test_every_declared_dependency_is_locked_within_its_range(lock: str) -> None:
    locked = pins(lock)
    for requirement in declared(lock):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_declared_dependencies_are_locked_for_every_python(python: str) -> None:
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    for entry in entries("lint"):
        marker = Requirement(entry).marker
        if canonicalize_name(Requirement(entry).name) in {canonicalize_name(r.name) for r in declared("lint")}:
            assert marker is None or marker.evaluate(environment)


def test_a_larger_lock_contains_the_smaller_one() -> None:
    """Where a platform needs a package for the larger one alone, its line names more platforms."""
    for smaller, larger in pairwise(LOCKS):
        assert unconditional(smaller).items() <= unconditional(larger).items()


def test_the_pinned_versions_are_those_of_the_constraints() -> None:
    lines = (CHECKOUT / "requirements" / "constraints.in").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert pins("worker")[canonicalize_name(name)] == Version(version)
    assert pins("worker")["sqlalchemy"].release[:2] == (2, 0)
