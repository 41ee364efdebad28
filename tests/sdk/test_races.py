from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid, JobId
from proofyard.sdk import JobRefused, Place, race, ranking
from proofyard.sdk.races import MAX_ENTRANTS, _require_alike, ranked


def place(job: int | None, loss: float, accuracy: float | None = None) -> Place:
    found = None if job is None else JobId(job)
    return Place(0, found, JobId(100 + (job or 0)), None, 10, loss, 2.718**loss, accuracy)


RESULTS = st.lists(st.tuples(st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 0.5, 1.0])), max_size=8)


@given(results=RESULTS, choices=st.booleans(), order=st.randoms(use_true_random=False))
def test_a_ranking_is_of_the_results_alone(results: list[tuple[float, float]], choices: bool, order: Any) -> None:
    places = [place(job or None, loss, hit if choices else None) for job, (loss, hit) in enumerate(results)]
    shuffled = order.sample(places, len(places))
    found = ranked(places)
    assert ranked(shuffled) == found
    keys = [(-(each.accuracy or 0.0), each.loss) for each in found]
    assert keys == sorted(keys)
    assert [each.rank for each in found] == [1 + sum(key < own for key in keys) for own in keys]


def manifest(**params: Any) -> Manifest:
    return Manifest(workload="evaluate", params=params, model=Cid("m"), data=Cid("d"), adapter=Cid("a"))


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        (manifest(max_tokens=32, adapter={"rank": 8}), ""),
        (manifest(max_tokens=64), "params.max_tokens"),
        (msgspec.structs.replace(manifest(max_tokens=32), data=Cid("e")), "data"),
        (msgspec.structs.replace(manifest(max_tokens=32), model=Cid("n")), "model"),
        (msgspec.structs.replace(manifest(max_tokens=32), precision="exact8"), "precision"),
    ],
    ids=["another adapter", "parameters", "data", "model", "precision"],
)
def test_only_like_is_ranked_with_like(other: Manifest, differing: str) -> None:
    given = {JobId(1): manifest(max_tokens=32), JobId(2): other}
    if differing:
        with pytest.raises(JobRefused, match=f"jobs 1 and 2 differ in {differing};"):
            _require_alike(given)
    else:
        _require_alike(given)


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ([0, 1], "0 is no job's number"),
        ([2**256], "is no job's number"),
        ([], "0 are named"),
        ([3, 4, 3], "job 3 is named twice"),
        (range(1, MAX_ENTRANTS + 2), "a race has 1 to 100"),
    ],
)
def test_what_is_no_race_is_refused_before_anybody_is_asked(jobs: Any, said: str) -> None:
    nobody: Any = None
    with pytest.raises(JobRefused, match=said):
        race(nobody, jobs, nobody, nobody)
    with pytest.raises(JobRefused, match=said):
        ranking(nobody, jobs, [1])


def test_a_ranking_without_evaluations_says_what_to_name() -> None:
    nobody: Any = None
    with pytest.raises(JobRefused, match="evaluations: none is named"):
        ranking(nobody, [1], [])
