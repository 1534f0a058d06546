"""Behaviour checks a user writes: read by line, refused by line, counted by group."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.records import ShrinkError
from tasks import behaviour, checklist
from tests.sabotage import models as words

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
ALIKE = {"group": "names", "kind": "invariance", "texts": ["good0", "good1"], "cosine": 0.5}
ORDER = {"group": "topics", "kind": "order", "text": "good0", "nearer": "good1", "farther": "bad0"}
ANSWER = {"label": "positive", "scores": {"positive": 0.9, "negative": 0.1}}
OTHER = {"label": "negative", "scores": {"positive": 0.2, "negative": 0.8}}


def file(folder: Path, *lines: Any) -> Path:
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    (folder / "checks.jsonl").write_text(text + "\n", encoding="utf-8")
    return folder


def test_checks_are_read_by_the_number_of_their_line(tmp_path: Path) -> None:
    found = checklist.read(file(tmp_path, MINIMUM, "", SAME, RISES, PROMPT))
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
        ({**ALIKE, "cosine": 1.5}, "Line 2 of checks.jsonl: 'cosine': Input should be less than or equal to 1"),
        ({**ALIKE, "kind": "order"}, "Line 2 of checks.jsonl: 'kind': Input should be 'invariance'"),
        ({**ORDER, "farther": ""}, "Line 2 of checks.jsonl has a text without a visible character"),
        ({**PROMPT, "contains": []}, "Line 2 of checks.jsonl asks nothing of the answer: give contains or lacks."),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(ShrinkError) as refused:
        checklist.read(file(tmp_path, MINIMUM, line))
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match="has no checks"):
        checklist.read(file(tmp_path, ""))
    (tmp_path / "checks.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(ShrinkError, match="no UTF-8 at byte 10"):
        checklist.read(tmp_path)
    (tmp_path / "more.jsonl").write_text("{}")
    with pytest.raises(ShrinkError, match=r"must be one \.jsonl or \.csv"):
        checklist.read(tmp_path)


def test_a_table_says_the_same(tmp_path: Path) -> None:
    """Every kind as a row, one of them over two lines of the file; the lines are those of the file."""
    (tmp_path / "checks.csv").write_text(
        "group,kind,text,other,label,score,prompt,contains,lacks,cosine,nearer,farther\n"
        "plain,minimum,good,,positive,,,,,,,\n"
        '"two\nlines",invariance,Anna is good,Eva is good,,,,,,,,\n'
        "praise,direction,long,long and good,positive,rises,,,,,,\n"
        "capitals,minimum,,,,,The capital of France is,Paris|paris,London,,,\n"
        "names,invariance,good0,good1,,,,,,0.5,,\n"
        "topics,order,good0,,,,,,,,good1,bad0\n",
        encoding="utf-8",
    )
    same: list[dict[str, Any]] = [
        MINIMUM,
        {**SAME, "group": "two\nlines"},
        RISES,
        {**PROMPT, "contains": ["Paris", "paris"]},
        ALIKE,
        ORDER,
    ]
    same[3]["lacks"] = ["London"]
    (tmp_path / "lines").mkdir()
    wanted = checklist.read(file(tmp_path / "lines", *same))
    shutil.rmtree(tmp_path / "lines")
    found = checklist.read(tmp_path)
    assert list(found.values()) == list(wanted.values()) and list(found) == [2, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("group,kind,text,labl\nx,minimum,good,positive", "Line 2 of checks.csv: 'label': Field required"),
        ("group,kind,text\nx,minimum,good\nx,minimum,good,bad", "Line 3 of checks.csv has more cells than the header"),
        ('group,kind,text\nx,minimum,"good', "checks.csv is no CSV behind line 1"),
        ("group,kind,text,other,cosine\nx,invariance,a,b,near", "Line 2 of checks.csv: 'cosine': Input should be a"),
        ("group,kind,text,other\nx,invariance,,b", "Line 2 of checks.csv has a text without a visible character"),
        ("group,kind,text\n", "checks.csv has no checks: write one a line"),
    ],
)
def test_a_bad_row_of_a_table_is_refused_with_its_line(tmp_path: Path, rows: str, said: str) -> None:
    (tmp_path / "checks.csv").write_text(rows, encoding="utf-8")
    with pytest.raises(ShrinkError) as refused:
        checklist.read(tmp_path)
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("check", "task", "paired", "said"),
    [
        ({**MINIMUM, "label": "fine"}, "classify", False, "Line 1 of the behaviour checks has the label 'fine'"),
        (SAME, "classify", True, "Line 1 of the behaviour checks has texts of the other kind: .* lists of two texts"),
        ({**MINIMUM, "text": ["a", "b"]}, "classify", False, "the data has single texts"),
        (PROMPT, "classify", False, "is of another task than the recipe's, classify: such a check has a label"),
        (ALIKE, "classify", False, "is of another task than the recipe's, classify"),
        (
            SAME,
            "embed",
            False,
            "is of another task than the recipe's, embed: such a check has a cosine, or the kind order",
        ),
        (MINIMUM, "generate", False, "is of another task than the recipe's, generate: such a check has a prompt"),
    ],
)
def test_checks_that_do_not_go_with_the_recipe_are_refused(
    tmp_path: Path, check: Any, task: Any, paired: bool, said: str
) -> None:
    checks = checklist.read(file(tmp_path, check))
    with pytest.raises(ShrinkError, match=said):
        checklist.fit(checks, task, ["negative", "positive"], paired)


def test_the_three_kinds_hold_as_they_say(tmp_path: Path) -> None:
    falls = {**RISES, "score": "falls"}
    minimum, same, rises, down = checklist.read(file(tmp_path, MINIMUM, SAME, RISES, falls)).values()
    assert isinstance(minimum, checklist.Minimum) and isinstance(same, checklist.Invariance)
    assert isinstance(rises, checklist.Direction) and isinstance(down, checklist.Direction)
    assert behaviour.holds(minimum, [ANSWER]) and not behaviour.holds(minimum, [OTHER])
    assert behaviour.holds(same, [ANSWER, ANSWER]) and not behaviour.holds(same, [ANSWER, OTHER])
    assert behaviour.holds(rises, [OTHER, ANSWER]) and not behaviour.holds(rises, [ANSWER, OTHER])
    assert behaviour.holds(down, [ANSWER, OTHER]) and not behaviour.holds(rises, [ANSWER, ANSWER])
    several = {"labels": ["positive", "long"], "scores": {"positive": 0.9, "long": 0.8}}
    assert behaviour.holds(minimum, [several]) and not behaviour.holds(same, [several, {**several, "labels": []}])


def test_answers_to_prompts_must_and_must_not_contain(tmp_path: Path) -> None:
    checks = checklist.read(file(tmp_path, PROMPT, {**PROMPT, "lacks": ["London"]}))
    found = behaviour.of_writers(checks, lambda prompt: " paris, France", lambda prompt: "Paris, not London")
    assert [(one.group, one.checks, one.teacher, one.student, one.failed) for one in found] == [
        ("capitals", 2, 2, 1, (2,))
    ]


def test_vectors_must_lie_as_close_and_in_the_order_that_is_asked(tmp_path: Path) -> None:
    alike, order = checklist.read(file(tmp_path, ALIKE, ORDER)).values()
    assert isinstance(alike, checklist.Alike) and isinstance(order, checklist.Order)
    here, near, far, none = (np.array(one) for one in ([1.0, 0.0], [5.0, 5.0], [-1.0, 3.0], [0.0, 0.0]))
    assert behaviour.stands(alike, [here, near]), "a cosine of 0.707, whatever the lengths"
    assert not behaviour.stands(alike, [here, far]) and not behaviour.stands(alike, [here, none])
    assert behaviour.stands(alike.model_copy(update={"cosine": 1.0}), [here, here * 3])
    assert behaviour.stands(order, [here, near, far]) and not behaviour.stands(order, [here, far, near])
    assert not behaviour.stands(order, [here, near, near]), "a tie is no order"
    assert not behaviour.stands(order, [here, near, np.array([np.nan, 1.0])])


def test_models_that_embed_are_asked_for_vectors(tmp_path: Path) -> None:
    """A teacher of two directions of words, and a student to whom all words are one."""
    folders = [make_vectors(tmp_path / name, apart) for name, apart in (("teacher", 1.0), ("student", 0.0))]
    (tmp_path / "asked").mkdir()
    checks = checklist.read(file(tmp_path / "asked", ALIKE, ORDER, {**ALIKE, "cosine": 0.99}))
    found = behaviour.of_vectors(checks, *folders)
    assert [(one.group, one.checks, one.teacher, one.student, one.failed) for one in found] == [
        ("names", 2, 1, 2, ()),
        ("topics", 1, 1, 0, (2,)),
    ]


def make_vectors(folder: Path, apart: float) -> Path:
    """A real graph that sums the words' vectors: good and fine lie side by side, bad across where they lie apart."""
    made = words.weights(words.WIDTH, 1)
    made["table"] = np.zeros_like(made["table"])
    made["table"][:, 0] = 1.0
    for word, turn in (("good0", 0.0), ("good1", 0.3), ("bad0", 2.0)):
        made["table"][words.WORDS.index(word), :2] = np.cos(turn * apart), np.sin(turn * apart)
    for name in ("layer0", "layer1", "head"):
        made[name] = np.eye(words.WIDTH, dtype=np.float32)
    return words.write(folder, words.graph(made, "sentence_embedding"), (), task="embed")
