"""What is started and stopped by a ``with`` block, also where its start fails half-way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Lifetime(ABC):
    """A context manager made of two methods.  ``close`` runs after a failed ``open`` too."""

    @abstractmethod
    def open(self) -> None:
        """Start it, and return when it can be used."""

    @abstractmethod
    def close(self) -> None:
        """Stop it and remove what it made.  Works after half an ``open``, and a second time."""

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
