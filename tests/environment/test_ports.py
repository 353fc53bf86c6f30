"""The port snapshot of the empirical validation."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from environment.ports import listening, main, unexpected

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net")


@pytest.fixture
def port() -> Iterator[int]:
    """A port of 127.0.0.1 on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_listener_is_seen_with_its_address(port: int) -> None:
    assert f"127.0.0.1:{port}" in listening()


def test_the_kernels_rows_are_read(tmp_path: Path) -> None:
    if sys.byteorder != "little":
        pytest.skip("the rows below are those of a little-endian machine")
    header = "  sl  local_address rem_address   st\n"
    table = tmp_path / "tcp"
    table.write_text(
        header
        + "   0: 0100007F:2544 00000000:0000 0A\n   1: 00000000:1538 00000000:0000 0A\n"
        + "   2: 0100007F:1111 0100007F:2544 01\n   3: 00000000000000000000000001000000:1538 0:0 0A\n"
    )
    assert listening([table, tmp_path / "absent"]) == {"127.0.0.1:9540", "0.0.0.0:5432", "[::1]:5432"}


def test_what_is_expected_and_what_was_there_before_is_fine() -> None:
    now = {"0.0.0.0:22", "127.0.0.1:9540", "0.0.0.0:5432", "[::]:5432"}
    assert unexpected(now, {"0.0.0.0:22"}, ["5432", "127.0.0.1:9540"]) == []


@pytest.mark.parametrize(
    ("now", "line"),
    [
        ({"127.0.0.1:9540", "0.0.0.0:6379"}, "something unexpected listens on 0.0.0.0:6379"),
        ({"0.0.0.0:9540"}, "something unexpected listens on 0.0.0.0:9540"),
        (set(), "nothing listens on 127.0.0.1:9540"),
    ],
)
def test_anything_else_is_named(now: set[str], line: str) -> None:
    assert line in unexpected(now, set(), ["127.0.0.1:9540"])


def test_the_command_compares_with_what_it_saved(port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tmp_path / "before"
    assert main(["--save", str(before)]) == 0
    assert f"127.0.0.1:{port}" in capsys.readouterr().out
    assert main(["--since", str(before), "--expect", "1"]) == 1
    assert "ports: nothing listens on 1\n" in capsys.readouterr().err
