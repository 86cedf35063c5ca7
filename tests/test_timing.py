"""How candidates are timed beside each other."""

import time

from advkern.testing import interleave


def test_all_candidates_have_equally_many_samples():
    quick, slow = (lambda: None), (lambda: time.sleep(0.02))
    samples = interleave({"quick": quick, "slow": slow}, rounds=5)
    assert [len(s) for s in samples.values()] == [5, 5]
    assert min(samples["slow"]) >= 0.02 > min(samples["quick"])


def test_slow_rounds_are_fewer_but_three_at_least():
    slow = lambda: time.sleep(0.02)
    assert len(interleave({"slow": slow}, budget=0.2)["slow"]) in (3, 4, 5)
    assert len(interleave({"slow": slow}, budget=0.0)["slow"]) == 3
    assert len(interleave({"slow": slow}, rounds=2, budget=0.0)["slow"]) == 2


def test_short_calls_are_repeated():
    calls = []
    samples = interleave({"short": lambda: calls.append(1)}, rounds=3, min_seconds=0.001)
    assert len(calls) > 100 and max(samples["short"]) < 0.001
