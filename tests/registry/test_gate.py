"""The gate fails closed and says why in numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.gate import Gate, judge
from registry.records import Evaluation, ModelScore
from tests.registry.samples import evaluation, written

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


def test_a_lower_perplexity_is_the_better_one() -> None:
    verdict = judge(Gate(retention_min=0.95, retention_low_min=0.94), written())
    assert verdict.passed
    assert [check.name for check in verdict.checks] == [
        "retention_perplexity",
        "retention_low_perplexity",
        "beat_floor_perplexity",
    ]
    assert verdict.checks[0].value == pytest.approx(20 / 21)
    assert verdict.checks[0].why.startswith("the teacher's perplexity over the student's is 0.9524 and reaches")
    assert verdict.checks[2].why.startswith("floor minus student is +4.0000, and its 95 % interval +2.0000 to +8.0000")
    assert not judge(Gate(retention_min_of={"perplexity": 0.96}), written()).passed


def test_other_measures_of_writing_are_asked_for_by_name() -> None:
    asked = Gate(retention_min_of={"chat_agreement": 0.4, "top1_agreement": 0.95}, beat_floor_of=("top1_agreement",))
    checks = {check.name: check for check in judge(asked, written()).checks}
    assert set(checks) == {"retention_chat_agreement", "retention_top1_agreement", "beat_floor_top1_agreement"}
    assert checks["retention_chat_agreement"].passed and not checks["retention_top1_agreement"].passed
    assert checks["beat_floor_top1_agreement"].why.startswith("student minus floor is +0.1000")


def test_a_measure_that_was_not_taken_fails_with_the_reason() -> None:
    asked = Gate(retention_min_of={"perplexity_second": 0.9}, beat_floor_of=("facts",))
    found = [(check.name, check.passed, check.why) for check in judge(asked, written()).checks]
    assert found == [
        (
            "retention_perplexity_second",
            False,
            "perplexity, second domain was not measured: the data has no second domain",
        ),
        ("beat_floor_facts", False, "accuracy on facts was not measured: the evaluation does not take it"),
    ]
    assert [check.name for check in judge(asked.model_copy(update={"beat_floor": False}), written()).checks] == [
        "retention_perplexity_second"
    ]


@pytest.mark.parametrize(("most", "passed"), [(5.2, True), (5.1, False)])
def test_bits_per_weight_have_a_most(most: float, passed: bool) -> None:
    (check,) = judge(Gate(beat_floor=False, bits_per_weight_max=most), written()).checks
    assert check.passed == passed and f"{most:g}" in check.why
    (unknown,) = judge(Gate(beat_floor=False, bits_per_weight_max=most), evaluation()).checks
    assert not unknown.passed and unknown.value is None


def test_an_evaluation_of_before_models_could_write_still_reads() -> None:
    new = {"left_out", "runtime", "reference"}
    old = evaluation().model_dump(mode="json", exclude=new)
    for role in ("teacher", "student", "floor"):
        for key in ("bits_per_weight", "kl", "kl_second", "speeds"):
            del old[role][key]
    assert Evaluation.model_validate(old) == evaluation()
