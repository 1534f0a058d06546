"""Behaviour checks a user writes: read by line, refused by line, counted by group."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry.records import ShrinkError
from tasks import behaviour

MINIMUM = {"group": "plain", "kind": "minimum", "text": "good", "label": "positive"}
SAME = {"group": "names", "kind": "invariance", "texts": ["Anna is good", "Eva is good"]}
RISES = {
    "group": "praise",
    "kind": "direction",
    "texts": ["long", "long and good"],
    "label": "positive",
    "score": "rises",
}
PROMPT = {"group": "capitals", "kind": "minimum", "prompt": "The capital of France is", "contains": ["Paris"]}
ANSWER = {"label": "positive", "scores": {"positive": 0.9, "negative": 0.1}}
OTHER = {"label": "negative", "scores": {"positive": 0.2, "negative": 0.8}}


def file(folder: Path, *lines: Any) -> Path:
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    (folder / "checks.jsonl").write_text(text + "\n", encoding="utf-8")
    return folder


def test_checks_are_read_by_the_number_of_their_line(tmp_path: Path) -> None:
    found = behaviour.read(file(tmp_path, MINIMUM, "", SAME, RISES, PROMPT))
    assert [(line, type(check).__name__) for line, check in found.items()] == [
        (1, "Minimum"),
        (3, "Invariance"),
        (4, "Direction"),
        (5, "Written"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "Line 2 of checks.jsonl is no JSON object: put one check on each line."),
        ("[1]", "Line 2 of checks.jsonl is no JSON object"),
        ("[" * 10_000, "Line 2 of checks.jsonl is no JSON object"),
        (
            {**MINIMUM, "kind": "maximum"},
            "Line 2 of checks.jsonl has the kind 'maximum': it may be",
        ),
        ({**MINIMUM, "labl": 1}, "Line 2 of checks.jsonl: 'labl': Extra inputs are not permitted; a minimum check has"),
        ({"group": "x", "kind": "invariance", "texts": ["one"]}, "Line 2 of checks.jsonl: 'texts':"),
        ({**RISES, "score": "jumps"}, "Line 2 of checks.jsonl: 'score':"),
        ({**MINIMUM, "text": " "}, "Line 2 of checks.jsonl has a text without a visible character"),
        ({**MINIMUM, "text": "\ud800"}, "Line 2 of checks.jsonl"),
        ({**PROMPT, "contains": []}, "Line 2 of checks.jsonl asks nothing of the answer: give contains or lacks."),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(ShrinkError) as refused:
        behaviour.read(file(tmp_path, MINIMUM, line))
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match="has no checks"):
        behaviour.read(file(tmp_path, ""))
    (tmp_path / "checks.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(ShrinkError, match="no UTF-8 at byte 10"):
        behaviour.read(tmp_path)
    (tmp_path / "more.jsonl").write_text("{}")
    with pytest.raises(ShrinkError, match=r"must be one \.jsonl"):
        behaviour.read(tmp_path)


@pytest.mark.parametrize(
    ("check", "task", "paired", "said"),
    [
        ({**MINIMUM, "label": "fine"}, "classify", False, "Line 1 of the behaviour checks has the label 'fine'"),
        (SAME, "classify", True, "Line 1 of the behaviour checks has texts of the other kind: .* lists of two texts"),
        ({**MINIMUM, "text": ["a", "b"]}, "classify", False, "the data has single texts"),
        (PROMPT, "classify", False, "has a prompt but the recipe's task is classify"),
        (MINIMUM, "generate", False, "has no prompt but the recipe's task is generate"),
    ],
)
def test_checks_that_do_not_go_with_the_recipe_are_refused(
    tmp_path: Path, check: Any, task: str, paired: bool, said: str
) -> None:
    checks = behaviour.read(file(tmp_path, check))
    with pytest.raises(ShrinkError, match=said):
        behaviour.fit(checks, task, ["negative", "positive"], paired)


def test_the_three_kinds_hold_as_they_say(tmp_path: Path) -> None:
    falls = {**RISES, "score": "falls"}
    minimum, same, rises, down = behaviour.read(file(tmp_path, MINIMUM, SAME, RISES, falls)).values()
    assert not isinstance(minimum, behaviour.Written) and not isinstance(same, behaviour.Written)
    assert not isinstance(rises, behaviour.Written) and not isinstance(down, behaviour.Written)
    assert behaviour.holds(minimum, [ANSWER]) and not behaviour.holds(minimum, [OTHER])
    assert behaviour.holds(same, [ANSWER, ANSWER]) and not behaviour.holds(same, [ANSWER, OTHER])
    assert behaviour.holds(rises, [OTHER, ANSWER]) and not behaviour.holds(rises, [ANSWER, OTHER])
    assert behaviour.holds(down, [ANSWER, OTHER]) and not behaviour.holds(rises, [ANSWER, ANSWER])
    several = {"labels": ["positive", "long"], "scores": {"positive": 0.9, "long": 0.8}}
    assert behaviour.holds(minimum, [several]) and not behaviour.holds(same, [several, {**several, "labels": []}])


def test_answers_to_prompts_must_and_must_not_contain(tmp_path: Path) -> None:
    checks = behaviour.read(file(tmp_path, PROMPT, {**PROMPT, "lacks": ["London"]}))
    found = behaviour.of_writers(checks, lambda prompt: " paris, France", lambda prompt: "Paris, not London")
    assert [(one.group, one.checks, one.teacher, one.student, one.failed) for one in found] == [
        ("capitals", 2, 2, 1, (2,))
    ]
