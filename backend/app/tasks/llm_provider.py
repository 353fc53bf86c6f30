"""The provider of the LLM tasks: one protocol, and the offline provider that is the default.

A real provider is a class with the same `complete`. Name it in the setting LLM_PROVIDER as `module:class` (its
constructor takes no arguments and reads its own credentials), or pass it to `use_provider` in a test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Protocol

from app.core.errors import LoggableError
from app.core.settings import ConfigurationError, get_settings


class ProviderUnavailable(LoggableError):  # noqa: N818  # the field's own wording; it is retried
    """The provider cannot answer now (network, rate limit). Tasks retry with back-off.

    Its text tells what failed and quotes nothing of the request, because it is logged.
    """


class CostLimitExceeded(LoggableError, ValueError):  # noqa: N818
    """Answering would cost more than `max_cost_cents`. Permanent; nothing was spent."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A provider's answer: `text` for people, `choice` an index into the options, its cost and its provider."""

    text: str
    choice: int
    model: str
    cost_cents: int


class Provider(Protocol):
    """What a task needs from an LLM."""

    def complete(self, instruction: str, material: str, *, options: int, max_cost_cents: int) -> Completion:
        """Answer `instruction` about `material`.

        Args:
            options: `choice` must be in `range(options)`; 1 where there is nothing to choose.
            max_cost_cents: never spend more.

        Raises:
            ProviderUnavailable: try again later.
            CostLimitExceeded: it cannot be answered for that much.
        """


class OfflineProvider:
    """Deterministic, without network: the same input gives the same answer on every machine.

    It has the prices of a hosted model (1 cent for each 4,000 characters, rounded up), so that cost limits can be
    tried.
    """

    model = "offline-1"

    def complete(self, instruction: str, material: str, *, options: int, max_cost_cents: int) -> Completion:
        cost = 1 + (len(instruction) + len(material)) // 4_000
        if cost > max_cost_cents:
            raise CostLimitExceeded(f"the answer costs {cost} cents, max_cost_cents allows {max_cost_cents}")
        digest = hashlib.sha256(json.dumps([instruction, material]).encode()).digest()
        words = f"{len(material.split())} words, fingerprint {digest.hex()[:12]}"
        return Completion(f"{instruction} ({words})", digest[0] % max(options, 1), self.model, cost)


_override: Provider | None = None


def get_provider() -> Provider:
    """The provider of this process: the one in `use_provider`, otherwise the setting's."""
    return _override or _made(get_settings().llm_provider)


@contextmanager
def use_provider(provider: Provider) -> Iterator[None]:
    """Let every LLM task of this process use `provider` within the block."""
    global _override
    before, _override = _override, provider
    try:
        yield
    finally:
        _override = before


def provider_class(path: str) -> Callable[[], Provider]:
    """The class that LLM_PROVIDER names, not instantiated: a worker checks it at its start, before it forks.

    Raises:
        ConfigurationError: it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        found: Callable[[], Provider] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"LLM_PROVIDER cannot be used: {type(error).__name__} when importing it") from error
    return found


@lru_cache(maxsize=4)
def _made(path: str) -> Provider:
    return provider_class(path)()
