"""What `why` and a fresh recipe say of the gate's paired checks."""

import pytest

from flows import beyond, init_classify, sentences
from flows.recipe import load
from registry.gate import Gate, judge
from registry.records import Behaviour, Evaluation, Leakage, Rival
from tests.registry.samples import evaluation
from tests.registry.test_gate_paired import difference, part


def full() -> Evaluation:
    return evaluation().model_copy(
        update={
            "against_teacher": difference(-0.01, 0.04),
            "champion": Rival(digest="a" * 64, against=difference(0.02, 0.01)),
            "slices": (part("short", 0.01, 0.02), part("FRA", -0.05, 0.03, by="country")),
            "behaviour": (Behaviour(group="negation", checks=4, teacher=4, student=3, failed=(7,)),),
            "leakage": Leakage(texts=1000, learnt=5000, exact=0, near=3),
        }
    )


def test_why_tells_what_stands_behind_the_checks_the_worst_slice_first() -> None:
    assert beyond.lines(beyond.facts(full()), "accuracy") == [
        "beside its teacher: -1.0 points [-5.0, +3.0] (accuracy) on 1,000 examples; 30 answers turned wrong, 30 right",
        "beside the champion aaaaaaaaaaaa: +2.0 points [+1.0, +3.0] (accuracy) on 1,000 examples; 30 answers turned "
        "wrong, 30 right",
        "slices, the lowest lower end first (95 % intervals, each by itself)",
        "  country: FRA                           400 rows  0.900 → 0.850     -5.0 points [-8.0, -2.0]",
        "  length: short                          400 rows  0.900 → 0.910     +1.0 points [-1.0, +3.0]",
        "behaviour checks passed by teacher and student",
        "  negation                              4 and 3 of 4  (fails line 7)",
        "leakage: 0 of 1000 evaluated texts word for word, 3 nearly, 0 in part among 5,000 that were learnt from",
    ]


def test_an_evaluation_of_before_has_nothing_to_tell() -> None:
    assert beyond.lines(beyond.facts(evaluation()), "accuracy") == []
    assert beyond.lines(beyond.facts({}), "accuracy") == []


def test_what_is_not_proven_is_told_from_what_failed() -> None:
    verdict = judge(Gate(noninferiority_margin=0.03, beat_floor=False), full())
    said = sentences.verdict_lines(verdict.model_dump(mode="json"), "mine")
    assert said[0] == "verdict: REJECTED: not proven" and said[1].startswith("  ? noninferiority: ")
    assert said[1].endswith("more examples like these would prove it")
    worse = judge(Gate(noninferiority_margin=0.03, slice_drop_max=0.01, beat_floor=False), full())
    said = sentences.verdict_lines(worse.model_dump(mode="json"), "mine")
    assert said[0] == "verdict: REJECTED" and said[2].startswith("  ✗ worst_slice: ") and "country 'FRA'" in said[2]


@pytest.mark.parametrize(("rows", "asked"), [(899, False), (900, True)])
def test_a_fresh_recipe_asks_only_what_its_rows_can_prove(rows: int, asked: bool) -> None:
    lines = init_classify.paired(rows).splitlines()
    assert any(line.startswith("  noninferiority_margin: 0.03") for line in lines) is asked
    assert any(line.startswith(f"  # {rows} test rows") for line in lines) is not asked
    assert all(line.startswith("  #") for line in lines) is not asked


def test_the_shipped_recipe_asks_for_all_of_it() -> None:
    gate = load("sentiment").gate
    asked = ("noninferiority_margin", "champion_margin", "slice_drop_max", "flips_max", "behaviour_min", "leakage_max")
    assert all(getattr(gate, name) is not None for name in asked)
