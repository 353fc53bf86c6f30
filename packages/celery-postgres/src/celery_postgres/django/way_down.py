"""How far `manage.py migrate` is about to go down: it unapplies one migration after the other, and tells none of them.

With it, the first one can look for what the last one would delete, as `python -m celery_postgres migrate --to 0` does.
Otherwise a way down might end half way, with the tables of a release that is not running.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: The number to which the plan of the current command goes down, for each alias.
_targets: dict[str, int] = {}


def note(*, using: str, plan: Sequence[tuple[Any, bool]] = (), **_: Any) -> None:
    """Receives `pre_migrate`. With `--fake` no operation will ask."""
    numbers = [
        int(migration.name[:4])
        for migration, backwards in plan
        if backwards and migration.app_label == "celery_postgres"
    ]
    _targets.pop(using, None)
    if numbers:
        _targets[using] = min(numbers) - 1


def target(alias: str, number: int) -> int:
    """The number that the command goes down to, if it unapplies this one now."""
    return min(_targets.get(alias, number), number - 1)
