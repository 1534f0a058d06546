"""Teacher and student asked what a user's behaviour checks (tasks/checklist.py) ask, and what they pass by group."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.records import Behaviour
from tasks import checklist, pairs, runtime
from tasks.checklist import Checks

TOKENS = 32  # of an answer to a prompt
ROUNDED = 1e-6  # by which a cosine may be off in single precision


def of_classifiers(checks: Checks, teacher: Path, student: Path) -> tuple[Behaviour, ...]:
    """Ask both artifacts through their own runtime, one text a batch."""
    asked = {line: check for line, check in checks.items() if isinstance(check, checklist.Labelled)}
    texts: list[pairs.Text] = [text for check in asked.values() for text in checklist.texts_of(check)]
    passed = []
    for directory in (teacher, student):
        answers = iter(runtime.answers(runtime.predict(directory, texts, batch=1), runtime.settings(directory)))
        passed.append([holds(check, [next(answers) for _ in checklist.texts_of(check)]) for check in asked.values()])
    return grouped(asked, *passed)


def holds(check: checklist.Labelled, answers: Sequence[dict[str, Any]]) -> bool:
    """Whether the answers (runtime.answers) to a check's texts are as they must be."""
    said = [set(one["labels"]) if "labels" in one else {one["label"]} for one in answers]
    if isinstance(check, checklist.Minimum):
        return check.label in said[0]
    if isinstance(check, checklist.Invariance):
        return said[0] == said[1]
    before, after = (one["scores"][check.label] for one in answers)
    return bool(after > before if check.score == "rises" else after < before)


def of_vectors(checks: Checks, teacher: Path, student: Path) -> tuple[Behaviour, ...]:
    """Ask both artifacts for the vectors of the checks' texts, one text a batch."""
    asked = {line: check for line, check in checks.items() if isinstance(check, checklist.Placed)}
    texts: list[pairs.Text] = [text for check in asked.values() for text in checklist.texts_of(check)]
    passed = []
    for directory in (teacher, student):
        vectors = iter(runtime.predict(directory, texts, batch=1).astype(np.float64))
        passed.append([stands(check, [next(vectors) for _ in checklist.texts_of(check)]) for check in asked.values()])
    return grouped(asked, *passed)


def stands(check: checklist.Placed, vectors: Sequence[NDArray[np.float64]]) -> bool:
    """Whether the vectors of a check's texts lie as they must; none at length 0 does."""
    sizes = [float(np.linalg.norm(one)) for one in vectors]
    if not all(np.isfinite(sizes)) or not all(sizes):
        return False
    first, *others = (one / size for one, size in zip(vectors, sizes, strict=True))
    cosines = [float(first @ one) for one in others]
    if isinstance(check, checklist.Order):
        return cosines[0] > cosines[1]
    return cosines[0] >= check.cosine - ROUNDED


def of_writers(checks: Checks, teacher: Callable[[str], str], student: Callable[[str], str]) -> tuple[Behaviour, ...]:
    """Ask both models, given as functions from a prompt to an answer."""
    asked = {line: check for line, check in checks.items() if isinstance(check, checklist.Written)}
    return grouped(asked, *([contains(one, ask(one.prompt)) for one in asked.values()] for ask in (teacher, student)))


def contains(check: checklist.Written, answer: str) -> bool:
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
