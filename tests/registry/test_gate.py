"""The gate fails closed and says why in numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.gate import Gate, judge
from registry.records import ModelScore
from tests.registry.samples import evaluation

FULL = Gate(retention_min=0.97, retention_low_min=0.95, bytes_ratio_min=8, speed_ratio_min=3)


def test_a_good_student_passes_every_check() -> None:
    verdict = judge(FULL, evaluation())
    assert verdict.passed
    assert [check.name for check in verdict.checks] == [
        "retention",
        "retention_low",
        "beat_floor",
        "bytes_ratio",
        "speed_ratio",
    ]
    assert verdict.checks[3].value == 10.0


def test_one_failed_check_fails_the_verdict_and_gives_both_numbers() -> None:
    verdict = judge(FULL, evaluation(low=0.94))
    failed = [check for check in verdict.checks if not check.passed]
    assert not verdict.passed and [check.name for check in failed] == ["retention_low"]
    assert "0.9400" in failed[0].why and "0.95" in failed[0].why


def test_an_interval_that_touches_the_floor_does_not_beat_it() -> None:
    assert not judge(Gate(), evaluation(win=0.0)).passed


def test_a_floor_that_the_teacher_does_not_beat_either_is_named() -> None:
    seen = evaluation(win=-0.1)
    (usual,) = judge(Gate(), seen).checks
    assert not usual.passed and "its teacher" not in usual.why
    (hopeless,) = judge(Gate(), seen.model_copy(update={"floor": seen.teacher})).checks
    assert hopeless.why.endswith("its teacher does not beat the floor either: take the floor, or ask with harder data")


def test_a_gate_without_checks_passes_nothing() -> None:
    assert not judge(Gate(beat_floor=False), evaluation()).passed


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_fails(bad: float) -> None:
    verdict = judge(FULL, evaluation(retention=bad, low=bad, win=bad))
    assert [check.passed for check in verdict.checks[:3]] == [False, False, False]
    assert all(check.value is None for check in verdict.checks[:3])


@given(st.floats(max_value=0) | st.just(math.nan) | st.just(math.inf))
def test_a_latency_that_is_no_positive_number_fails(p50: float) -> None:
    seen = evaluation()
    student: ModelScore = seen.student.model_copy(update={"p50_ms": p50})
    verdict = judge(Gate(speed_ratio_min=0.001), seen.model_copy(update={"student": student}))
    assert not verdict.passed


@pytest.mark.parametrize("limit", [math.nan, math.inf, 0.0, -1.0])
def test_a_limit_that_cannot_gate_is_refused(limit: float) -> None:
    with pytest.raises(ValueError):
        Gate(retention_min=limit)
