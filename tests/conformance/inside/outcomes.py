"""A pytest plugin: a line of JSON for each part of a test, as soon as it has ended."""

import json
import os
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Of a flaky test that is run again only the last run counts; a subtest that fails also fails its test."""
    if report.outcome == "rerun" or hasattr(report, "context"):
        return
    lines = str(report.longrepr or "").strip().splitlines()
    line = [report.nodeid, report.outcome, hasattr(report, "wasxfail"), lines[-1] if lines else ""]
    with open(os.environ["CONFORMANCE_OUTCOMES"], "a") as outcomes:
        outcomes.write(json.dumps(line) + "\n")
