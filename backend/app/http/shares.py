"""A limit in total, and a lower one per tenant, so that no tenant can use up everything."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from app.http.problems import Problem, unavailable

RETRY_AFTER_S = 5


def refuse(what: str, code: str, *, of_tenant: bool) -> Problem:
    """The answer to a tenant that has used up its own share (429), or to any tenant when the total is used up (503)."""
    if not of_tenant:
        return unavailable(f"this server has no room for more {what}", f"{code}-full", RETRY_AFTER_S)
    return Problem(
        429,
        f"tenant-{code}-full",
        f"this tenant has no room for more {what}",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


class Shares:
    """How much of something is in use. Use it in one thread only: the event loop's.

    Args:
        what: for people, in the plural.
        code: for programs.
    """

    def __init__(self, what: str, code: str, most: int, most_per_tenant: int) -> None:
        self._what, self._code = what, code
        self._most, self._most_per_tenant = most, most_per_tenant
        self._all = 0
        self._used: Counter[UUID] = Counter()

    def take(self, tenant_id: UUID, amount: int = 1) -> None:
        """Use `amount` more.

        Raises:
            Problem: 503 or 429; nothing was taken.
        """
        if self._all + amount > self._most:
            raise refuse(self._what, self._code, of_tenant=False)
        if self._used[tenant_id] + amount > self._most_per_tenant:
            raise refuse(self._what, self._code, of_tenant=True)
        self._all += amount
        self._used[tenant_id] += amount

    def give_back(self, tenant_id: UUID, amount: int = 1) -> None:
        """Return `amount`, which was taken."""
        self._all -= amount
        self._used[tenant_id] -= amount
        if not self._used[tenant_id]:
            del self._used[tenant_id]
