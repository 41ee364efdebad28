"""Which jobs a verifier works for: those whose fee pays for its gas, and that are not too large."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from api_scene import job_row

from proofyard.protocol.fees import least_verifier_fee, propose_verifier_fee
from proofyard.protocol.types import Wei
from proofyard.verifier import taking
from proofyard.verifier.engine.rows import JobState
from proofyard.verifier.settings import VerifierSettings
from proofyard.verifier.taking import TooMuchToDo

GWEI = 10**9


class Chain:
    """A chain at one gas price, and what a verifier knows of its jobs."""

    def __init__(self, jobs: tuple[Any, ...] = (), price: int = GWEI, **settings: Any) -> None:
        defaults = {field.name: field.default for field in msgspec.structs.fields(VerifierSettings)}
        self.settings = SimpleNamespace(**defaults | settings)
        self.rows = SimpleNamespace(jobs={job.id: job for job in jobs})
        self.chain = SimpleNamespace(gas_price=lambda: price)

    async def on_chain(self, call: Any) -> Any:
        return call()


async def of(job: Any, tasks: int, chain: Chain) -> str:
    return await taking.objection(chain, job, tasks)  # type: ignore[arg-type]


def job(fee: int = 10**18, **changes: Any) -> Any:
    row = job_row(1, JobState.WAITING, **changes)
    row.verifier_fee = str(fee)
    return row


async def test_a_job_whose_fee_does_not_pay_for_the_gas_is_refused_by_the_field_and_with_what_it_needs() -> None:
    least = 10 * 250_000 * GWEI // 2
    assert await of(job(least), 10, Chain()) == ""
    assert await of(job(least - 1), 10, Chain()) == (
        "verifier_fee: is 0.001249999999999999 CREDIT; for the gas of 10 tasks at the present price this verifier "
        "takes 0.00125 CREDIT at least (least_fee_bps)"
    )
    assert await of(job(least), 10, Chain(price=3 * GWEI)) != ""


async def test_an_operator_says_what_it_wants_for_its_gas_and_what_the_token_is_worth() -> None:
    assert await of(job(0), 99, Chain(least_fee_bps=0)) == ""
    dear = Chain(least_fee_bps=20_000, token_per_ether=300)
    least = least_verifier_fee(10, GWEI, 300, 20_000)
    assert least == 2 * 300 * 10 * 250_000 * GWEI
    assert (await of(job(least), 10, dear), await of(job(least - 1), 10, dear) != "") == ("", True)


async def test_what_requesters_propose_is_taken_also_where_the_price_has_doubled() -> None:
    for tasks in (1, 7, 50_000):
        proposed = propose_verifier_fee(Wei(0), tasks, GWEI)
        assert await of(job(proposed), tasks, Chain(price=2 * GWEI)) == ""
        assert await of(job(proposed), tasks, Chain(price=3 * GWEI)) != ""


async def test_a_job_of_too_many_tasks_is_refused_whatever_it_pays() -> None:
    assert await of(job(10**30), 50_000, Chain()) == ""
    found = await of(job(0), 99_001, Chain())
    assert found == "params: make 99001 tasks; this verifier takes 50000 of a job at most (job_tasks)"


async def test_a_job_waits_while_the_running_ones_have_all_the_tasks_that_a_verifier_takes() -> None:
    running, done = job_row(2), job_row(3, JobState.DONE)
    running.tasks, done.tasks = 60, 1000
    assert await of(job(), 40, Chain((running, done), all_tasks=100)) == ""
    with pytest.raises(TooMuchToDo, match=r"its 41 tasks and the 60 of running jobs .* 100 .*\(all_tasks\)"):
        await of(job(), 41, Chain((running, done), all_tasks=100))
    assert await of(job(), 500, Chain((done,), all_tasks=100)) == "", "one that is alone never waits for itself"


async def test_what_is_taken_already_is_carried_out() -> None:
    assert await of(job(0, taken_block=7), 99_001, Chain()) == ""


async def test_what_is_only_opened_for_a_verifier_may_be_refused_until_it_has_begun() -> None:
    asked = job(0, taken_block=3)
    asked.tasks = 0
    assert await of(asked, 99_001, Chain()) != "" and await of(asked, 10, Chain()) != ""
    asked.units_open = 1
    assert await of(asked, 99_001, Chain()) == "", "it committed to something, whatever else it has forgotten"
