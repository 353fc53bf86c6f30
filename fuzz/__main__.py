"""Fuzz one target with atheris: `python -m fuzz TARGET SEEDS [libFuzzer's options, corpora or inputs]`.

Writes the target's seeds to the folder SEEDS, which can be given as a corpus too.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

#: The front's modules create the application, which needs a URL; nothing connects.
os.environ.setdefault("DATABASE_URL", "postgresql://fuzz@localhost/fuzz")

target, seeds = sys.argv.pop(1), Path(sys.argv.pop(1))
with atheris.instrument_imports(include=["app", "celery_postgres"]):
    module = importlib.import_module(f"fuzz.{target}")

seeds.mkdir(parents=True, exist_ok=True)
for number, seed in enumerate(module.SEEDS):
    (seeds / str(number)).write_bytes(seed)

atheris.Setup(sys.argv, module.check)
atheris.Fuzz()
