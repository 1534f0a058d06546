"""Behaviour checks that a user writes as JSON lines, after CheckList (Ribeiro et al. 2020): what a model must do.

    {"group": "negation", "kind": "minimum", "text": "not good at all", "label": "negative"}
    {"group": "names", "kind": "invariance", "texts": ["Anna loved it", "Maria loved it"]}
    {"group": "praise", "kind": "direction", "texts": ["It is long", "It is long and great"], "label": "positive",
     "score": "rises"}
    {"group": "capitals", "kind": "minimum", "prompt": "The capital of France is", "contains": ["Paris"]}

The last is of a model that writes; `lacks` names what it must not say. Texts of a model of pairs are lists of two.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from registry.records import STRICT, Behaviour, ShrinkError, has_text, is_unicode
from tasks import pairs, runtime

TOKENS = 32  # of an answer to a prompt
Text = str | tuple[str, str]
Group = Annotated[str, Field(min_length=1, max_length=60)]


class Minimum(BaseModel):
    """A text whose label is plain."""

    model_config = STRICT
    kind: Literal["minimum"]
    group: Group
    text: Text
    label: str


class Invariance(BaseModel):
    """Texts that must get the same answer."""

    model_config = STRICT
    kind: Literal["invariance"]
    group: Group
    texts: tuple[Text, Text]


class Direction(BaseModel):
    """A second text that must give a label a higher, or a lower, score than the first."""

    model_config = STRICT
    kind: Literal["direction"]
    group: Group
    texts: tuple[Text, Text]
    label: str
    score: Literal["rises", "falls"]


class Written(BaseModel):
    """A prompt, and what the answer must and must not contain (letters' case apart)."""

    model_config = STRICT
    kind: Literal["minimum"]
    group: Group
    prompt: str
    contains: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


Check = Minimum | Invariance | Direction | Written
KINDS: dict[str, type[BaseModel]] = {"minimum": Minimum, "invariance": Invariance, "direction": Direction}


Checks = Mapping[int, Check]  # by the number of their line


def read(directory: Path) -> dict[int, Check]:
    """The checks of the one JSONL file in a directory; ShrinkError names the line that is wrong."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    if len(files) != 1 or files[0].suffix != ".jsonl":
        raise ShrinkError(f"behaviour has {len(files)} files but must be one .jsonl: give its uri as file:PATH.jsonl.")
    try:
        lines = files[0].read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ShrinkError(f"{files[0].name} is no UTF-8 at byte {error.start}: convert it to UTF-8.") from None
    found = {at: check_of(line, f"Line {at} of {files[0].name}") for at, line in enumerate(lines, 1) if line.strip()}
    if not found:
        raise ShrinkError(f"{files[0].name} has no checks: write one a line, or leave behaviour out.")
    return found


def check_of(line: str, where: str) -> Check:
    """One line's check."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise ShrinkError(f"{where} is no JSON object: put one check on each line.")
    kind = Written if "prompt" in raw else KINDS.get(str(raw.get("kind")))
    if kind is None:
        raise ShrinkError(f"{where} has the kind {raw.get('kind')!r:.40}: it may be {', '.join(KINDS)}.")
    try:
        found: Check = TypeAdapter[Any](kind).validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "it"
        known = ", ".join(name for name in kind.model_fields)
        raise ShrinkError(f"{where}: {key!r}: {first['msg']:.80}; a {raw.get('kind')} check has {known}.") from None
    for text in told(found):
        if not has_text(text) or not is_unicode(text):
            raise ShrinkError(f"{where} has a text without a visible character, or no UTF-8: mend it.")
    if isinstance(found, Written) and not (found.contains or found.lacks):
        raise ShrinkError(f"{where} asks nothing of the answer: give contains or lacks.")
    return found


def told(check: Check) -> list[str]:
    """Every text of a check."""
    if isinstance(check, Written):
        return [check.prompt, *check.contains, *check.lacks]
    return [part for text in texts_of(check) for part in pairs.parts(text)]


def texts_of(check: Minimum | Invariance | Direction) -> tuple[Text, ...]:
    """The texts that a classifier is asked."""
    return (check.text,) if isinstance(check, Minimum) else check.texts


def fit(checks: Checks, task: str, labels: Sequence[str], paired: bool) -> None:
    """ShrinkError for a check that a model of this task, with these labels, cannot be asked."""
    for line, check in checks.items():
        where = f"Line {line} of the behaviour checks"
        if isinstance(check, Written) != (task == "generate"):
            asked = "has a prompt" if isinstance(check, Written) else "has no prompt"
            raise ShrinkError(f"{where} {asked} but the recipe's task is {task}: give checks of that task.")
        if isinstance(check, Written):
            continue
        label = getattr(check, "label", None)
        if label is not None and label not in labels:
            raise ShrinkError(f"{where} has the label {label!r:.60}, which the data lacks: it has {', '.join(labels)}.")
        if any(isinstance(text, str) == paired for text in texts_of(check)):
            wanted = "lists of two texts" if paired else "single texts"
            raise ShrinkError(f"{where} has texts of the other kind: the data has {wanted}.")


def of_classifiers(checks: Checks, teacher: Path, student: Path) -> tuple[Behaviour, ...]:
    """Ask both artifacts through their own runtime, one text a batch."""
    asked = {line: check for line, check in checks.items() if not isinstance(check, Written)}
    texts: list[pairs.Text] = [text for check in asked.values() for text in texts_of(check)]
    passed = []
    for directory in (teacher, student):
        answers = iter(runtime.answers(runtime.predict(directory, texts, batch=1), runtime.settings(directory)))
        passed.append([holds(check, [next(answers) for _ in texts_of(check)]) for check in asked.values()])
    return grouped(asked, *passed)


def holds(check: Minimum | Invariance | Direction, answers: Sequence[dict[str, Any]]) -> bool:
    """Whether the answers (runtime.answers) to a check's texts are as they must be."""
    said = [set(one["labels"]) if "labels" in one else {one["label"]} for one in answers]
    if isinstance(check, Minimum):
        return check.label in said[0]
    if isinstance(check, Invariance):
        return said[0] == said[1]
    before, after = (one["scores"][check.label] for one in answers)
    return bool(after > before if check.score == "rises" else after < before)


def of_writers(checks: Checks, teacher: Callable[[str], str], student: Callable[[str], str]) -> tuple[Behaviour, ...]:
    """Ask both models, given as functions from a prompt to an answer."""
    asked = {line: check for line, check in checks.items() if isinstance(check, Written)}
    return grouped(asked, *([contains(one, ask(one.prompt)) for one in asked.values()] for ask in (teacher, student)))


def contains(check: Written, answer: str) -> bool:
    """Whether an answer has all that it must and nothing that it must not."""
    said = answer.casefold()
    must = all(part.casefold() in said for part in check.contains)
    return must and not any(part.casefold() in said for part in check.lacks)


def grouped(checks: Checks, teacher: Sequence[bool], student: Sequence[bool]) -> tuple[Behaviour, ...]:
    """How many checks of each group both pass, and the lines of those that the student fails."""
    lines, groups = list(checks), np.array([check.group for check in checks.values()])
    found = []
    for group in sorted(set(groups.tolist())):
        own = np.flatnonzero(groups == group).tolist()
        failed = tuple(lines[at] for at in own if not student[at])
        passed = {"teacher": sum(teacher[at] for at in own), "student": sum(student[at] for at in own)}
        found.append(Behaviour(group=group, checks=len(own), failed=failed, **passed))
    return tuple(found)
