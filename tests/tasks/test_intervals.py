"""Intervals of what was hardly seen: against scipy's exact binomial one, and left alone where enough was seen."""

import numpy as np
import pytest
from scipy.stats import binomtest

from tasks import metrics

ROWS = 106
LABELS = np.arange(ROWS) % 2


def wrong(rows: list[int]) -> metrics.Ints:
    """Guesses that are wrong in these rows."""
    guesses = LABELS.copy()
    guesses[rows] = 1 - guesses[rows]
    return guesses


@pytest.mark.parametrize("examples", [1, 10, 106, 1608])
def test_what_was_not_seen_has_the_exact_binomial_bound(examples: int) -> None:
    exact = binomtest(0, examples).proportion_ci(method="exact").high
    assert metrics.unseen(examples) == pytest.approx(exact, rel=1e-9)


def test_answers_that_never_differ_are_no_proof_that_none_would() -> None:
    found = metrics.comparison(wrong([]), wrong([]), wrong([1]), LABELS)
    kept = found["retention"]
    assert kept.point == 1.0 and kept.low == pytest.approx(1 - metrics.unseen(ROWS))
    assert kept.high == pytest.approx(1 + metrics.unseen(ROWS))
    many = np.tile(LABELS, 100)
    assert metrics.comparison(many, many, many, many)["retention"].low > 0.999


@pytest.mark.parametrize(("wins", "beats"), [(5, False), (12, True)])
def test_a_few_wins_and_no_loss_beat_a_floor_when_mcnemars_exact_test_says_so(wins: int, beats: bool) -> None:
    won = metrics.comparison(wrong([]), wrong([]), wrong(list(range(wins))), LABELS)["win_over_floor"]
    assert won.point == pytest.approx(wins / ROWS)
    assert bool(binomtest(0, wins).pvalue < 0.05) is beats and (won.low > 0) is beats


def test_where_both_kinds_were_seen_the_resamples_alone_speak() -> None:
    teacher, student, floor = wrong([1, 2]), wrong([2, 3]), wrong([2, 4, 5, 6, 7, 8])
    found = metrics.comparison(teacher, student, floor, LABELS, 4000)
    drawn = metrics.resampled("accuracy", (teacher, student, floor), LABELS, 4000, 0)
    low, high = np.quantile(drawn[1:, 1] / drawn[1:, 0], [0.025, 0.975])
    assert (found["retention"].low, found["retention"].high) == (low, high)
