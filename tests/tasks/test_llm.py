"""The LLM tasks with the offline provider, and with providers that fail."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tasks import llm
from app.tasks.context import PayloadError
from app.tasks.llm_provider import Completion, CostLimitExceeded, OfflineProvider, ProviderUnavailable, use_provider

TENANT = str(uuid4())
PAYLOADS: dict[str, dict[str, Any]] = {
    "routing": {"request": "refund please", "routes": ["billing", "shipping", "fraud"]},
    "explanation": {"subject": "churn", "facts": {"customers": 12, "lost": 3, "note": None}},
    "investigation": {"question": "Why?", "evidence": ["log one", "log two"]},
    "budget": {
        "total_cents": 10_001,
        "channels": [
            {"name": "search", "spend_cents": 100, "revenue_cents": 300},
            {"name": "social", "spend_cents": 100, "revenue_cents": 100},
        ],
    },
}
RESULTS = {
    "routing": llm.RoutingResult,
    "explanation": llm.ExplanationResult,
    "investigation": llm.InvestigationResult,
    "budget": llm.BudgetResult,
}


def run(kind: str, **changes: Any) -> Any:
    arguments = {"payload": PAYLOADS[kind], "tenant_id": TENANT} | changes
    return getattr(llm, kind).apply(kwargs=arguments, throw=True).get()


@pytest.mark.parametrize("kind", sorted(PAYLOADS))
def test_results_are_typed_and_the_same_each_time(kind: str) -> None:
    first, second = run(kind), run(kind)
    assert first == second
    assert RESULTS[kind].model_validate(first).model == OfflineProvider.model
    assert first["cost_cents"] >= 1


def test_routing_chooses_one_of_the_routes() -> None:
    assert run("routing")["route"] in PAYLOADS["routing"]["routes"]


def test_an_investigation_has_a_finding_for_each_piece_and_pays_for_all() -> None:
    result = run("investigation")
    assert len(result["findings"]) == 2
    assert result["cost_cents"] == 3


def test_a_budget_is_divided_by_return_on_spend_to_the_cent() -> None:
    assert run("budget")["allocation_cents"] == {"search": 7_501, "social": 2_500}


def test_channels_need_names_of_their_own() -> None:
    channel = PAYLOADS["budget"]["channels"][0]
    with pytest.raises(PayloadError, match=r"payload.channels: names_must_differ"):
        run("budget", payload={"total_cents": 1, "channels": [channel, channel]})


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**6), min_size=1, max_size=50).filter(any))
def test_a_division_loses_no_cent_and_is_fair_to_one(total: int, weights: list[int]) -> None:
    shares = llm.divide(total, weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) <= 1 + total / 10**14


@pytest.mark.parametrize("kind", sorted(PAYLOADS))
def test_what_would_cost_too_much_fails_before_it_is_spent(kind: str) -> None:
    with pytest.raises(CostLimitExceeded):
        run(kind, max_cost_cents=0)


def test_the_limit_counts_all_calls_of_an_investigation() -> None:
    with pytest.raises(CostLimitExceeded):
        run("investigation", max_cost_cents=2)


@pytest.mark.parametrize("limit", [-1, True, "5", 1.5, 10_001])
def test_a_limit_is_a_whole_number_of_cents(limit: object) -> None:
    with pytest.raises(PayloadError, match="max_cost_cents must be a whole number"):
        run("routing", max_cost_cents=limit)


def test_every_text_of_a_payload_is_limited() -> None:
    for fact in ("x" * 2_001, "x" * 10**7):
        with pytest.raises(PayloadError, match=r"payload.facts.*string_too_long"):
            run("explanation", payload={"subject": "s", "facts": {"note": fact}})


@pytest.mark.parametrize("kind", sorted(PAYLOADS))
def test_unknown_fields_are_refused(kind: str) -> None:
    with pytest.raises(PayloadError, match="extra_forbidden"):
        run(kind, payload=PAYLOADS[kind] | {"hunter2": "hunter2"})


class Flaky:
    """Answers from the second question on."""

    def __init__(self, failure: Exception) -> None:
        self.failure, self.asked = failure, 0

    def complete(self, instruction: str, material: str, *, options: int, max_cost_cents: int) -> Completion:
        self.asked += 1
        if self.asked == 1:
            raise self.failure
        return Completion("answer", 0, "flaky-1", 1)


def test_a_provider_that_is_away_is_asked_again() -> None:
    provider = Flaky(ProviderUnavailable("rate limit"))
    with use_provider(provider):
        answer = llm.routing.apply(kwargs={"payload": PAYLOADS["routing"], "tenant_id": TENANT})
    assert answer.get()["model"] == "flaky-1"
    assert provider.asked == 2


@pytest.mark.parametrize("permanent", [CostLimitExceeded("too dear"), ValueError("no")])
def test_what_cannot_succeed_is_not_tried_again(permanent: Exception) -> None:
    provider = Flaky(permanent)
    with use_provider(provider), pytest.raises(type(permanent)):
        llm.routing.apply(kwargs={"payload": PAYLOADS["routing"], "tenant_id": TENANT}, throw=True)
    assert provider.asked == 1


def test_a_wrong_payload_asks_nobody() -> None:
    provider = Flaky(ProviderUnavailable("never reached"))
    with use_provider(provider), pytest.raises(PayloadError):
        run("routing", payload={})
    assert provider.asked == 0
