"""The text that fills up a task, in both languages in which systems publish."""

from __future__ import annotations

import shutil
import subprocess
import zlib

import pytest

from benchmarks.systems import sized
from environment.sources import CHECKOUT


def test_python_and_node_fill_up_with_the_same_text() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js on this machine: then no system of Node's is measured on it either")
    module = CHECKOUT / "benchmarks/node/publishing.mjs"
    program = f'import {{ sized }} from "{module.as_uri()}"; process.stdout.write(sized(100_000));'
    done = subprocess.run(
        [node, "--input-type=module", "--eval", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == sized(100_000)


@pytest.mark.parametrize("size", [0, 1, 100, 1_000_000])
def test_it_is_as_long_as_is_asked(size: int) -> None:
    assert len(sized(size)) == size


def test_it_compresses_as_real_data_does() -> None:
    text = sized(100_000).encode()
    assert 2 < len(text) / len(zlib.compress(text)) < 4
