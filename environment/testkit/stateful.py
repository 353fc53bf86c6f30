"""Running a state machine of hypothesis against real parts: slow steps, and no examples kept."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine


def run_machine(
    machine: type[RuleBasedStateMachine], *, examples: int, steps: int, given: dict[str, Any], **options: Any
) -> None:
    """Run a machine as a test.

    Args:
        examples: how many runs.
        steps: of how many rules each, at most.
        given: attributes of its class, such as the URL of the test's database.
        options: further settings.
    """
    case = type(machine.__name__, (machine,), given).TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=True,
        **options,
    )
    case().runTest()
