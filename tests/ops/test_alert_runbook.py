"""Every alert has its section, and every section its alert. What they tell people to type, tests/runbook types."""

from __future__ import annotations

import re
from typing import Any

import pytest

from environment.sources import CHECKOUT

RUNBOOK = "docs/backend/alerts.md"
_, *_PARTS = re.split(r"^## (.+)$", (CHECKOUT / RUNBOOK).read_text(), flags=re.MULTILINE)
SECTIONS = dict(zip(_PARTS[::2], _PARTS[1::2], strict=True))
BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name, text in SECTIONS.items()
    for number, block in enumerate(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL), 1)
]


def test_every_alert_leads_to_its_section_and_every_section_is_of_an_alert(alerts: dict[str, Any]) -> None:
    # GitHub's anchor of a heading without spaces is the heading in lower case.
    urls = {name: rule["annotations"]["runbook_url"] for name, rule in alerts.items()}
    assert urls == {name: f"{RUNBOOK}#{name.lower()}" for name in SECTIONS}


def test_the_list_of_alerts_says_how_urgent_each_is(alerts: dict[str, Any]) -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \|", (CHECKOUT / RUNBOOK).read_text(), re.MULTILINE)
    assert rows == [(name, name.lower(), alerts[name]["labels"]["severity"]) for name in SECTIONS]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_has_its_four_parts(name: str) -> None:
    parts = re.findall(r"^\*\*(\w+)\.\*\*\s+\S", SECTIONS[name], re.MULTILINE)
    assert parts == ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def test_what_they_lead_to_is_there() -> None:
    anchors = {name.lower() for name in SECTIONS}
    assert set(re.findall(r"\]\(#([^)]+)\)", (CHECKOUT / RUNBOOK).read_text())) <= anchors


def test_nothing_in_a_block_changes_anything() -> None:
    """What does is told in a sentence, where it is seen."""
    changing = r"--yes|\b(pause|resume|release|UPDATE|DELETE|DROP|TRUNCATE|VACUUM|pg_terminate_backend)\b"
    assert [block.id for block in BLOCKS if re.search(changing, block.values[0])] == []  # type: ignore[call-overload]
