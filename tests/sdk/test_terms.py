"""Terms that would be refused later are refused before anything is published or paid, by the field's name."""

from typing import Any

import msgspec
import pytest

from proofyard.chain import CourtParams
from proofyard.node.settings import NodeSettings
from proofyard.protocol.earnings import LEAST_SEAT_PAY
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Digest, TaskIndex, Wei
from proofyard.sdk import JobRefused, Offer, credits, propose_verifier_fee
from proofyard.sdk.terms import (
    check_audit_fee,
    check_offer,
    check_sizes,
    check_task_rewards,
    check_verifier_fee,
    check_work,
    job_terms,
    most_of_a_task,
)
from proofyard.workloads.limits import USUAL, demands

MANIFEST = Manifest(workload="lora", params={"segment_steps": 2, "batch": 4, "seq_len": 128})


def graph(*units: int, segments: int = 4) -> list[TaskSpec]:
    return [TaskSpec(index=TaskIndex(i), kind="train", segments=segments, work_units=u) for i, u in enumerate(units)]


def offer(**changes: Any) -> Offer:
    return Offer(**{"reward": credits(10), "audit_fee": credits(2)} | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"auditors_per_segment": 1}, "auditors_per_segment: is 1; a segment needs 2"),
        ({"auditors_per_segment": 0}, "auditors_per_segment"),
        ({"auditors_per_segment": 256}, "auditors_per_segment"),
        ({"segments_per_audit": 0}, "segments_per_audit: is 0"),
        ({"segments_per_audit": 256}, "segments_per_audit"),
        ({"reward": Wei(-1)}, "reward: is -1"),
        ({"reward": Wei(1 << 96)}, "reward"),
        ({"audit_fee": Wei(1 << 96)}, "audit_fee"),
        ({"verifier_fee": Wei(-1)}, "verifier_fee"),
        ({"deadline_s": 2}, "deadline_s: is 2 s"),
        ({"deadline_s": 10**9}, "deadline_s"),
    ],
)
def test_an_offer_that_the_contract_would_refuse_is_refused_with_the_field(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(JobRefused, match=reason):
        check_offer(offer(**changes))


def test_two_auditors_and_one_segment_are_enough() -> None:
    check_offer(offer(auditors_per_segment=2, segments_per_audit=1))


@pytest.mark.parametrize(
    ("params", "segments", "reason"),
    [
        ({"segment_steps": 1 << 20}, 4, r"params\.segment_steps: asks for 4194304 in task 0"),
        ({"batch": 4096, "seq_len": 4096}, 4, r"params\.batch: asks for 16777216 .* \(max_step_tokens\)"),
        ({"segment_rows": 1 << 20}, 2, r"params\.segment_rows"),
        ({"max_tokens": 1 << 21}, 2, r"params\.max_tokens"),
        ({}, 5000, "the task's segments: asks for 5000"),
        ({"base": {"segment_steps": 2}, "vary": {"segment_steps": [2, 1 << 20]}}, 4, r"params\.base\.segment_steps"),
    ],
)
def test_work_beyond_what_nodes_take_is_refused_with_the_field(
    params: dict[str, Any], segments: int, reason: str
) -> None:
    with pytest.raises(JobRefused, match=reason):
        check_work(msgspec.structs.replace(MANIFEST, params=params), graph(1, segments=segments))


def test_work_that_cannot_be_counted_is_refused() -> None:
    with pytest.raises(JobRefused, match="no task"):
        check_work(MANIFEST, [])
    with pytest.raises(JobRefused, match="work units"):
        check_work(MANIFEST, graph((1 << 48) - 1, 1))
    check_work(MANIFEST, graph(8, 8, 1))


def test_inputs_that_are_too_large_are_refused_with_their_name() -> None:
    check_sizes({"model": USUAL.max_model_bytes, "data": 0})
    with pytest.raises(JobRefused, match="data: has"):
        check_sizes({"data": USUAL.max_data_bytes + 1})


def test_a_task_never_earns_more_than_a_broken_receipt_costs() -> None:
    check_task_rewards(graph(8, 8, 4), credits(100), credits(40))
    with pytest.raises(JobRefused, match="reward: gives a task up to"):
        check_task_rewards(graph(8, 8, 4), credits(101), credits(40))


def test_what_a_task_may_earn_is_what_nodes_take() -> None:
    default = next(field.default for field in msgspec.structs.fields(NodeSettings) if field.name == "max_task_reward")
    assert most_of_a_task(CourtParams().receipt_penalty) == default * 10**18


def test_the_usual_limits_are_those_that_a_node_begins_with() -> None:
    defaults = {field.name: field.default for field in msgspec.structs.fields(NodeSettings)}
    limits = {name: getattr(USUAL, name) for name in USUAL.__dataclass_fields__}
    assert limits == {name: defaults[name] for name in limits}


def test_every_demand_is_bounded_by_a_limit_that_there_is() -> None:
    found = list(demands(MANIFEST, graph(1)[0]))
    assert {demand.limit for demand in found} <= set(USUAL.__dataclass_fields__)
    assert {demand.field: demand.amount for demand in found}["params.segment_steps"] == 8


def test_a_fee_for_which_nobody_would_audit_the_smallest_task_is_refused_before_any_escrow() -> None:
    check_audit_fee(graph(8, 8, 4), offer(audit_fee=Wei(10 * LEAST_SEAT_PAY)))
    with pytest.raises(JobRefused, match=r"audit_fee: is .*; at least 0\.01 CREDIT"):
        check_audit_fee(graph(8, 8, 4), offer(audit_fee=Wei(10 * LEAST_SEAT_PAY - 1)))


def test_the_proposed_fee_is_a_part_of_the_reward_and_the_gas() -> None:
    assert propose_verifier_fee(credits(100), 10, 0) == credits(5)
    assert propose_verifier_fee(Wei(1), 10, 0) == 1, "it is rounded up"
    gas = 10 * 250_000 * 10**9
    assert propose_verifier_fee(credits(100), 10, 10**9) == credits(5) + gas
    assert propose_verifier_fee(credits(100), 10, 10**9, token_per_ether=300) == credits(5) + 300 * gas


def test_terms_count_units_and_take_the_fee_that_was_given() -> None:
    terms = job_terms(MANIFEST, Digest(bytes(32)), graph(8, 8, 1), offer(), 0, 1_000)
    assert (terms.units, terms.workload, terms.deadline) == (17, 0, 1_000 + offer().deadline_s)
    assert terms.escrow == credits(12) + terms.verifier_fee
    assert terms.verifier_fee == credits("0.5")
    assert job_terms(MANIFEST, Digest(bytes(32)), graph(1), offer(verifier_fee=Wei(0)), 10**9, 1_000).verifier_fee == 0


def test_a_fee_that_does_not_pay_for_half_of_the_gas_is_refused_before_any_escrow() -> None:
    least = 10 * 250_000 * 10**9 // 2
    check_verifier_fee(10, offer(verifier_fee=Wei(least)), 10**9)
    check_verifier_fee(10, offer(verifier_fee=None), 10**9)
    check_verifier_fee(10, offer(verifier_fee=Wei(0)), 0)
    with pytest.raises(
        JobRefused, match=r"verifier_fee: is 0\.00\d+ CREDIT; for the gas of 10 tasks .* 0\.00125 CREDIT"
    ):
        check_verifier_fee(10, offer(verifier_fee=Wei(least - 1)), 10**9)
    proposed = propose_verifier_fee(credits(100), 10, 10**9)
    check_verifier_fee(10, offer(verifier_fee=proposed), 2 * 10**9)


def test_a_job_of_more_tasks_than_verifiers_take_is_refused_by_the_field() -> None:
    with pytest.raises(JobRefused, match=r"params: make 50001 tasks; verifiers take 50000 of a job .*job_tasks"):
        check_work(MANIFEST, graph(*[1] * 50_001))
