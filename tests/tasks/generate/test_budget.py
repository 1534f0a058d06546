"""Bits under a budget: near the best of all choices, never over it."""

import itertools

import numpy as np
import pytest

from registry.records import ShrinkError
from tasks.generate.budget import Choice, choose, hull


def problem(seed: int, weights: int) -> dict[str, list[Choice]]:
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(weights):
        size, difficulty = rng.integers(50, 500), rng.gamma(1.0)
        errors = difficulty * 4.0 ** -np.array([3.0, 4.5, 5.0, 6.0, 8.5]) * rng.uniform(0.8, 1.2, 5)
        found[str(number)] = [
            Choice(f"q{bits}", bits * float(size), float(error))
            for bits, error in zip((3.0, 4.5, 5.0, 6.0, 8.5), errors, strict=True)
        ]
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_near_the_best_and_within_the_budget(seed: int) -> None:
    weights = problem(seed, 5)
    size = sum(one[0].bits / 3 for one in weights.values())
    for bits in (3.2, 4.8, 6.0, 20.0):
        found = choose(weights, bits * size)
        assert sum(one.bits for one in found.values()) <= bits * size
        every = (one for one in itertools.product(*weights.values()) if sum(c.bits for c in one) <= bits * size)
        best = min(sum(choice.error for choice in one) for one in every)
        worst_step = max(max(c.error for c in one) for one in weights.values())
        assert best <= sum(one.error for one in found.values()) <= best + worst_step
    assert {one.grid for one in choose(weights, 9 * size).values()} == {"q8.5"}


def test_the_hull_leaves_out_what_others_beat() -> None:
    kept = hull([Choice("a", 1, 10), Choice("b", 2, 9.5), Choice("c", 3, 1), Choice("d", 4, 2), Choice("e", 3, 5)])
    assert [one.grid for one in kept] == ["a", "c"]


def test_a_budget_below_the_smallest_is_refused() -> None:
    with pytest.raises(ShrinkError, match=r"target asks for 10 bits but the smallest grids take \d+: raise it"):
        choose(problem(0, 3), 10)
