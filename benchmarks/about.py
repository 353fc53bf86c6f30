"""What a run was made on: machine, versions, settings.  A folder contains the samples of one machine only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.systems import System
from environment.testkit import measuring, servers

_NAME = "about.json"
#: Abilities of a system, and what the page says is not measured where one is missing.
_CANNOT = {
    "bulk": "publishing in bulk",
    "results": "results",
    "late": "late acks beside early ones",
    "prefork": "children of one worker",
    "chords": "a chord",
}

#: What must be the same for all parts of a run.
_SAME = ("processor", "processors", "memory_gb")


class MismatchError(Exception):
    """The folder contains samples of another machine, or of other versions."""


def remember(folder: Path, systems: Mapping[str, System], missing: Mapping[str, str]) -> None:
    """Write ``about.json``: the machine and the systems of this part of the run.

    Raises:
        MismatchError: when the samples of the folder were made on another machine, or with other versions.
    """
    now = measuring.describe()
    known = read(folder)
    if known:
        for key in _SAME:
            if known["machine"][key] != now[key]:
                raise MismatchError(
                    f"{folder} was measured on {known['machine'][key]}, this is {now[key]}: figures of two machines "
                    "cannot be compared; begin all of it --anew, or choose another folder with --out"
                )
    for name, system in systems.items():
        before, here = known.get("systems", {}).get(name), system.versions()
        if before and before["versions"] != here:
            raise MismatchError(
                f"{folder} has samples of {system.label} with {_listed(before['versions'])}, here it has "
                f"{_listed(here)}: begin all of it --anew, or choose another folder with --out"
            )
    described = {**known.get("systems", {}), **{name: _system(system) for name, system in systems.items()}}
    absent = {**known.get("missing", {}), **missing}
    content = {
        "machine": now,
        "postgres": servers.POSTGRES,
        "systems": described,
        "missing": {name: reason for name, reason in absent.items() if name not in described},
    }
    (folder / _NAME).write_text(json.dumps(content, indent=1) + "\n")


def forget(folder: Path) -> None:
    """Remove ``about.json``: another one is written when the next part of a run begins."""
    (folder / _NAME).unlink(missing_ok=True)


def read(folder: Path) -> dict[str, Any]:
    """Return what was written, or nothing."""
    try:
        found: dict[str, Any] = json.loads((folder / _NAME).read_text())
    except FileNotFoundError:
        return {}
    return found


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{what} {version}" for what, version in versions.items())


def _system(system: System) -> dict[str, Any]:
    return {
        "label": system.label,
        "durable": system.durable,
        "settings": system.settings,
        "concurrency": system.concurrency,
        "cannot": [reason for ability, reason in _CANNOT.items() if not getattr(system, ability)],
        "skips": dict(system.skips),
        "versions": system.versions(),
    }
