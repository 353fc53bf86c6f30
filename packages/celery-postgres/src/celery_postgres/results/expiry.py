"""After how long results, failures and chords are deleted: Celery's settings, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from celery.exceptions import ImproperlyConfigured


@dataclass(frozen=True, slots=True)
class Expiry:
    """The ages, in seconds, at which a cleanup deletes; None for never.

    Attributes:
        results: of every state but FAILURE, and of saved groups: `result_expires`.
        failures: of the state FAILURE: `result_failure_expires`, else as `results`.
        chords: of chords that are not complete: `result_chord_expires`, else as `results`.
    """

    results: float | None
    failures: float | None
    chords: float | None

    @classmethod
    def of(cls, conf: Any, results: timedelta | None) -> Expiry:
        """The ages that an application has set.

        The two settings are new in Celery 5.7. They are read by name, so they have the same effect with an older one.

        Args:
            conf: the settings.
            results: what Celery has made of `result_expires`.

        Raises:
            ImproperlyConfigured: a setting is not a time.
        """
        default = results.total_seconds() if results else None
        return cls(
            default, _setting(conf, "result_failure_expires", default), _setting(conf, "result_chord_expires", default)
        )

    @property
    def chords_outlive_results(self) -> bool:
        """Whether the results of a chord's parts may be deleted while the chord still waits for other parts."""
        shortest = min(age for age in (self.results, self.failures, float("inf")) if age is not None)
        return shortest < (float("inf") if self.chords is None else self.chords)


def _setting(conf: Any, name: str, default: float | None) -> float | None:
    """A number of seconds or a timedelta; 0 is never, and None the default, as with `result_expires`."""
    value = conf.get(name)
    if value is None:
        return default
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e10:
        raise ImproperlyConfigured(f"{name} is a number of seconds or a timedelta; 0 keeps everything")
    return float(value) or None
