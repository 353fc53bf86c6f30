"""What a view is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlencode

from celery_postgres.console.access import Role, Viewer
from celery_postgres.console.source import Source

STAFF = frozenset({Role.READER, Role.OPERATOR})
EVERYONE = frozenset(Role)
#: Those for whom there is an action at all; each action has its own.
ACTORS = frozenset({Role.OPERATOR, Role.TENANT})
#: The longest value of a parameter that a view reads. Names in the broker have at most 255 characters.
LONGEST = 500


class NotThereError(LookupError):
    """There is no such thing, or it is not this viewer's: the answers are the same. The text is for the reader."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a view.

    Attributes:
        viewer: who looks.
        source: what can be seen.
        query: the parameters of the address.
        base: the path below which the console is mounted.
    """

    viewer: Viewer
    source: Source
    query: Mapping[str, str]
    base: str

    def asked(self, name: str) -> str:
        """A parameter without spaces around it; empty if it is missing.

        Raises:
            NotThereError: it is too long, or no text for a database. A condition is never left out: an action would
                then reach further than what was shown.
        """
        value = self.query.get(name, "").strip()
        if len(value) > LONGEST or "\0" in value or not _is_encodable(value):
            raise NotThereError("A part of this address is longer than any name here, or is no text.")
        return value

    def owns(self, task_id: str) -> bool:
        """Whether this viewer sees a task: a tenant its own, others all."""
        tenant, tenants = self.viewer.tenant, self.source.tenants
        return tenant is None or (tenants is not None and tenants.owns(tenant, task_id))

    @property
    def acts(self) -> bool:
        """Whether this viewer may act on the broker, and this console can."""
        return self.viewer.acts and self.source.broker is not None

    def link(self, path: str, /, **parameters: str | None) -> str:
        """The address of a view."""
        given = {name: value for name, value in parameters.items() if value}
        return f"{self.base}/{path}" + (f"?{urlencode(given)}" if given else "")

    def again(self, path: str, /, **changed: str | None) -> str:
        """The address of this view with other parameters; None removes one. Older pages are not kept."""
        return self.link(path, **{name: value for name, value in self.query.items() if name != "before"} | changed)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Page:
    """A template and what it shows."""

    template: str
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another view, which shows what was asked for. The address begins with the console's base."""

    address: str


Show = Callable[[Look], Page | Elsewhere]


class View(NamedTuple):
    """A view, and who has it.

    Attributes:
        path: below the console's base.
        name: in the navigation; None for a view that other views lead to.
        key: the letter after `g` that leads to it.
        roles: who has it. For others it does not exist.
        show: makes the page.
        parent: the path of the view that the navigation marks.
        live: whether its page follows what changes. Not one that acts, records who looks, or leads elsewhere.
    """

    path: str
    name: str | None
    key: str
    roles: frozenset[Role]
    show: Show
    parent: str | None = None
    live: bool = True
