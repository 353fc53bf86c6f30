"""What a ``with`` block starts is stopped, also where its start fails half-way."""

from __future__ import annotations

import pytest

from environment.lifetime import Lifetime


class Recorder(Lifetime):
    def __init__(self, *, fails: bool = False) -> None:
        self.calls: list[str] = []
        self._fails = fails

    def open(self) -> None:
        self.calls.append("open")
        if self._fails:
            raise OSError("no such program")

    def close(self) -> None:
        self.calls.append("close")


def test_a_block_is_opened_and_closed() -> None:
    with Recorder() as recorder:
        assert recorder.calls == ["open"]
    assert recorder.calls == ["open", "close"]


def test_a_start_that_fails_is_closed_and_its_error_is_raised() -> None:
    recorder = Recorder(fails=True)
    with pytest.raises(OSError, match="no such program"), recorder:
        pytest.fail("the block must not run")
    assert recorder.calls == ["open", "close"]
