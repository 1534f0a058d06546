"""Measures of models that write, each against an independent way to the same number."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from registry.records import PERPLEXITIES, WRITING, MeasureName
from tasks.embed.measures import resamples
from tasks.generate import measures

ROLES = ("teacher", "student", "floor")


def test_a_window_is_read_as_a_plain_loop_and_torchs_distributions_read_it() -> None:
    made = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(2, 7, 11, generator=made) * 3 for _ in range(2))
    ids = torch.randint(0, 11, (2, 7), generator=made)
    ids[1, 5:] = -1  # behind the document's end
    found = measures.read(student, ids, teacher)
    nats, kl, same, tokens = 0.0, 0.0, 0, 0
    for row in range(2):
        for at in range(6):
            if ids[row, at + 1] < 0:
                continue
            mine, theirs = Categorical(logits=student[row, at]), Categorical(logits=teacher[row, at])
            nats -= float(mine.log_prob(ids[row, at + 1]))
            kl += float(kl_divergence(theirs, mine))
            same += int(student[row, at].argmax() == teacher[row, at].argmax())
            tokens += 1
    assert found.nats == pytest.approx(nats, rel=1e-6) and found.kl == pytest.approx(kl, rel=1e-5)
    assert (found.same, found.tokens) == (same, tokens) == (same, 10)
    alone = measures.read(student, ids)
    assert alone.nats == pytest.approx(nats, rel=1e-6) and alone.kl == 0


@pytest.mark.parametrize("name", ["perplexity", "top1_agreement"])
def test_intervals_are_those_of_a_bootstrap_written_out(name: MeasureName) -> None:
    rng = np.random.default_rng(2)
    below = rng.integers(5, 200, 30).astype(float)
    above = {role: below * rng.uniform(low, 0.9, 30) for role, low in zip(ROLES, (0.5, 0.4, 0.1), strict=True)}
    found = measures.compared(name, above, below, resamples(30, 400, 7))
    lots = []
    for row in np.random.default_rng(7).multinomial(30, np.full(30, 1 / 30), size=400):
        chosen = [place for place, times in enumerate(row) for _ in range(times)]
        scores = []
        for role in ROLES:
            ratio = sum(above[role][one] for one in chosen) / sum(below[one] for one in chosen)
            scores.append(math.exp(ratio) if name == "perplexity" else ratio)
        lots.append(scores)
    t, s, f = np.array(lots).T
    kept, won = (t / s, f - s) if name == "perplexity" else (s / t, s - f)
    share = (f - s) / (f - t) if name == "perplexity" else (s - f) / (t - f)
    sure = (f - t if name == "perplexity" else t - f) > 1e-12
    share = np.where(sure, share, 0.0)
    for interval, values in ((found.retention, kept), (found.win_over_floor, won), (found.lift_retained, share)):
        assert [interval.low, interval.high] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())
    whole = above["student"].sum() / below.sum()
    assert found.student == pytest.approx(math.exp(whole) if name == "perplexity" else whole)


def test_a_better_student_keeps_more_and_wins_whichever_way_better_points() -> None:
    for name in WRITING:
        lower = name in PERPLEXITIES
        good, middle, bad = (np.full(4, one) for one in ((0.1, 0.2, 0.3) if lower else (0.3, 0.2, 0.1)))
        seen = measures.compared(
            name, {"teacher": good, "student": middle, "floor": bad}, np.ones(4), resamples(4, 100, 0)
        )
        assert seen.retention.point < 1 and seen.win_over_floor.low > 0 and 0 < seen.lift_retained.point < 1
        same = measures.compared(
            name, {"teacher": good, "student": good, "floor": bad}, np.ones(4), resamples(4, 100, 0)
        )
        assert same.retention.point == 1 and same.lift_retained.point == 1
        worse = measures.compared(
            name, {"teacher": good, "student": bad, "floor": middle}, np.ones(4), resamples(4, 100, 0)
        )
        assert worse.win_over_floor.high < 0 and worse.lift_retained.point < 0


def test_few_questions_that_all_went_alike_do_not_give_an_interval_without_width() -> None:
    right = {role: np.ones(20) for role in ROLES}
    found = measures.answered("facts", right, resamples(20, 100, 0))
    assert found.retention.low == pytest.approx(0.025 ** (1 / 20)) and found.retention.high > 1
    assert found.win_over_floor.low < 0 < found.win_over_floor.high


def test_the_mean_divergence_weighs_documents_by_their_tokens() -> None:
    found = measures.mean(np.array([1.0, 30.0]), np.array([10.0, 100.0]), resamples(2, 1000, 0))
    assert found.point == pytest.approx(31 / 110) and (found.low, found.high) == pytest.approx((0.1, 0.3))
