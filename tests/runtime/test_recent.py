"""What is kept of what was needed lately."""

import random
from concurrent.futures import ThreadPoolExecutor

from proofyard.runtime.recent import Recent


def test_what_was_not_needed_for_longest_goes_first() -> None:
    kept: Recent[str, int] = Recent(3)
    for place, name in enumerate("abc"):
        kept.put(name, place)
    assert kept.get("a") == 0
    kept.put("d", 3)
    assert [kept.get(name) for name in "abcd"] == [0, None, 2, 3]
    kept.put("large", 9, size=4)
    assert kept.get("large") is None and kept.get("d") == 3, "what fits nowhere displaces nothing"
    kept.put("e", 4, size=3)
    assert [kept.get(name) for name in "acde"] == [None, None, None, 4]


def test_what_nobody_needed_for_a_while_goes() -> None:
    now = [0.0]
    kept: Recent[str, int] = Recent(100, unused_s=60.0, clock=lambda: now[0])
    kept.put("used", 1)
    kept.put("unused", 2)
    for now[0] in (30.0, 60.0):
        assert kept.get("used") == 1
    now[0] = 61.0
    assert kept.get("used") == 1 and kept.get("unused") is None
    now[0] = 200.0
    kept.put("other", 3)
    assert kept.get("used") is None and kept._size == 1


def test_threads_may_share_it() -> None:
    """Of one that is fed and asked by several at once the size stays that of what it holds."""
    kept: Recent[int, int] = Recent(50, unused_s=1e-4)

    def use(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(3000):
            key = chance.randrange(30)
            if kept.get(key) is None:
                kept.put(key, key, 1 + key % 5)
            elif chance.random() < 0.1:
                kept.drop(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert kept._size == sum(size for size, _, _ in kept._values.values()) <= 50
