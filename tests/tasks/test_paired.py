"""Paired differences against references computed another way: the likelihood by brute force, and their coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tasks import metrics, paired


def statistic(lost: int, won: int, examples: int, difference: float) -> float:
    """Tango's statistic with the nuisance share found by searching the trinomial likelihood, not by his formula."""

    def unlikely(share: float) -> float:  # of the lost ones; those that won have `difference` more
        cells = ((lost, share), (won, share + difference), (examples - lost - won, 1 - 2 * share - difference))
        return -float(sum(count * np.log(max(chance, 1e-300)) for count, chance in cells))

    low, high = max(0.0, -difference), (1 - difference) / 2
    grid = np.linspace(low, high, 4001)
    at = int(np.argmin([unlikely(one) for one in grid]))
    bounds = (grid[max(0, at - 1)], grid[min(4000, at + 1)])
    share = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    variance = (2 * share + difference - difference**2) / examples
    return float(((won - lost) / examples - difference) / np.sqrt(variance))


@pytest.mark.parametrize(("lost", "won", "examples"), [(12, 2, 50), (3, 0, 40), (0, 0, 30), (40, 33, 1608), (0, 9, 20)])
def test_the_ends_are_where_the_score_test_turns(lost: int, won: int, examples: int) -> None:
    found = paired.tango(lost, won, examples)
    assert found.point == (won - lost) / examples
    assert statistic(lost, won, examples, found.low) == pytest.approx(paired.Z, abs=2e-3)
    assert statistic(lost, won, examples, found.high) == pytest.approx(-paired.Z, abs=2e-3)


def test_an_example_from_the_literature() -> None:
    found = paired.tango(2, 12, 50)  # the table (12, 2, 36) of many papers on this interval
    assert (round(found.low, 4), round(found.high, 4)) == (0.0611, 0.3447)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.data())
def test_an_interval_covers_its_point_mirrors_and_never_vanishes(examples: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, examples))
    won = data.draw(st.integers(0, examples - lost))
    found, turned = paired.tango(lost, won, examples), paired.tango(won, lost, examples)
    assert -1 <= found.low <= found.point <= found.high <= 1 and found.high - found.low > 1e-4
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low), abs=1e-9)


@pytest.mark.parametrize("examples", [10, 106, 1608])
def test_answers_that_never_differ_have_the_width_of_what_was_not_seen(examples: int) -> None:
    same = np.ones(examples, dtype=bool)
    found = paired.of_answers(same, same)
    assert found.interval.low == pytest.approx(-(paired.Z**2) / (examples + paired.Z**2), rel=1e-3)
    assert found.variance == 0 and (found.lost, found.won) == (0, 0)


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.02), (0.05, 0.01), (0.005, 0.0)])
def test_it_covers_the_truth_as_often_as_it_says(lost: float, won: float) -> None:
    drawn = np.random.default_rng(0).multinomial(120, [lost, won, 1 - lost - won], size=2000)
    cells, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    inside = [paired.tango(int(a), int(b), 120) for a, b in cells]
    covered = sum(n for one, n in zip(inside, times, strict=True) if one.low <= won - lost <= one.high) / 2000
    assert covered > 0.93


def test_other_scores_are_resampled_in_pairs() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 300)
    teacher = np.where(random.random(300) < 0.9, labels, (labels + 1) % 3)
    student = np.where(random.random(300) < 0.9, teacher, (teacher + 2) % 3)  # some turn right, too
    found = paired.of_guesses("macro_f1", teacher, student, labels, 4000, 0)
    draws = []
    for _ in range(2000):  # the plain bootstrap, row by row
        rows = random.integers(0, 300, 300)
        scores = [metrics.macro_f1(one[rows], labels[rows]) for one in (student, teacher)]
        draws.append(scores[0] - scores[1])
    assert found.interval.point == pytest.approx(metrics.macro_f1(student, labels) - metrics.macro_f1(teacher, labels))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=4e-3)
    assert found.variance == pytest.approx(300 * np.var(draws), rel=0.15)


def test_sums_that_never_differ_still_have_a_width() -> None:
    values, below = np.linspace(0, 1, 40), np.ones(40)
    drawn = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=200).astype(np.float64)
    same, apart = paired.of_sums(values, values, below, drawn), paired.of_sums(values, values + 0.1, below, drawn)
    assert same.interval.low == pytest.approx(-metrics.unseen(40)) and same.interval.high > 0
    assert apart.interval.point == pytest.approx(0.1)
