"""Who agrees with whom, told from sketches."""

import numpy as np

from proofyard.workloads.answers import number_answers
from proofyard.workloads.sketch import sketch_change, sketch_distance

SEED = bytes(32)
TOLERANCE = 1e-3


def sketch(change):
    return sketch_change({"group": change}, SEED)


def number(worker, answers):
    claimed = sketch(worker)
    sketches = [sketch(answer) for answer in answers]
    return number_answers([(s.encode(), sketch_distance(claimed, s)) for s in sketches], TOLERANCE)


def made_up(seed):
    return np.random.default_rng(seed).normal(size=5000)


def test_honest_auditors_agree_on_a_cheat_however_small_it_is_and_whatever_they_round():
    right = made_up(0)
    for cheat in (0.005, 0.1, 1.0):
        worker = right + cheat * made_up(1)
        rounded = [right, right + 1e-4 * made_up(2), right + 1e-4 * made_up(3)]
        assert number(worker, rounded) == [1, 1, 1]


def test_answers_that_were_made_up_independently_agree_with_nothing():
    right = made_up(0)
    answers = [right, made_up(1), made_up(2), -right, np.zeros_like(right)]
    assert number(right, answers) == [0, 1, 2, 3, 4]


def test_unreadable_sketches_agree_on_nothing():
    assert number_answers([(b"junk", 1e9), (b"junk", 1e9)], TOLERANCE) == [1, 2]
