"""Whether a version's signed evidence holds together and is of this very model: pure checks, each with its reason.

The gate was judged once, in the run; here everything that it went by is laid beside everything else once more: the
evaluation beside the model's digest, the verdict beside evaluation and gate, the gate beside the recipe, and the
statement of provenance beside them all. What the model itself does is asked in tasks/reload.py, in a clean process.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from registry import attested, files, provenance
from registry.gate import Gate, judge
from registry.records import STRICT, Check, Evaluation, Verdict, directory_bytes, sha256_json

FRESH_DAYS = 90  # of an evaluation: libraries and data have gone on by then
AGAIN = "run its recipe again, which evaluates it anew"
AHEAD = timedelta(days=1)  # by which another machine's clock may be wrong
OWN = ("dir:", "file:", "models:")  # what is here already: its licence is nobody else's business
UNNAMED = {"", "unknown", "none", "null"}
MATERIALS = ("teacher", "data", "recipe", "code", "constraints")
SHA = re.compile(r"[0-9a-f]{64}")


class Asked(BaseModel):
    """What a version is held against that does not lie in it: who asks for which model, and when."""

    model_config = STRICT
    model: str
    digest: str  # of model/, as the registry or the ledger has it
    key: str  # that signed it
    now: datetime
    reigning: str | None = None  # digest of the champion that it would replace
    forced: bool = False  # a person answers for a failed gate; a false verdict stays false


class Told(BaseModel):
    """What the evidence of a version says."""

    model_config = STRICT
    of: str  # digest of the model that was evaluated
    evaluation: Evaluation
    gate: Gate
    verdict: Verdict
    statement: dict[str, Any]
    digests: dict[str, str]  # of evaluation, gate and verdict as they stand in the files


def told(version: Path) -> Told:
    """The evidence of a fetched version; raises attested.Incomplete."""
    of, evaluation = attested.evaluation(version)
    return Told(
        of=of,
        evaluation=evaluation,
        gate=attested.gate(version),
        verdict=attested.verdict(version),
        statement=attested.provenance(version),
        digests=attested.digests(version),
    )


def checks(version: Path, asked: Asked, recipe: tuple[str, Gate] | None) -> Iterator[Check]:
    """All checks of a fetched version; `recipe` is the digest and gate of the recipe in its statement, None if broken.

    After a file that may harm nothing is read any more.
    """
    for look in (files.named, files.harmless, files.whole):
        seen = look(version)
        yield seen
        if not seen.passed:
            return
    try:
        said = told(version)
    except attested.Incomplete as error:
        yield check("evidence", False, f"{error}")
        return
    yield check("evidence", True, "evaluation, gate, verdict and provenance are there")
    yield evaluated(said, asked)
    yield age(said, asked)
    yield finite(said.evaluation)
    yield gate(said, recipe)
    yield verdict(said, asked)
    yield champion(said, asked)
    yield provenant(said, asked, recipe)
    yield licence(said.statement)
    yield size(version, said.evaluation)


def check(name: str, passed: bool, why: str, value: float | None = None, limit: float | None = None) -> Check:
    """One demand and how it ended."""
    return Check(name=name, value=value, limit=limit, passed=passed, why=why)


def evaluated(said: Told, asked: Asked) -> Check:
    """The evaluation is of this very model."""
    if said.of != asked.digest:
        return check("evaluation", False, f"it is of {said.of[:12]}, and the model is {asked.digest[:12]}")
    return check("evaluation", True, f"it is of {said.of[:12]}, which is the model")


def age(said: Told, asked: Asked) -> Check:
    """The evaluation is not stale, and not of a time to come."""
    stages = {str(one.get("name", "")).partition("/")[0]: one for one in byproducts(said.statement)}
    when = stages.get("evaluate", {}).get("annotations", {}).get("started") or provenance.signed(said.statement)[1]
    try:
        made = datetime.fromisoformat(str(when))
        days = (asked.now - (made if made.tzinfo else made.replace(tzinfo=UTC))) / timedelta(days=1)
    except ValueError:
        return check("age", False, f"nobody knows when it was evaluated ({when!r:.40})")
    if days < -(AHEAD / timedelta(days=1)):
        return check("age", False, f"it was evaluated {-days:.1f} days from now", days, FRESH_DAYS)
    fresh = days <= FRESH_DAYS
    said_so = f"it was evaluated {max(days, 0):.1f} days ago, {FRESH_DAYS} are allowed"
    return check("age", fresh, said_so if fresh else said_so + f": {AGAIN}", max(days, 0.0), FRESH_DAYS)


def stale(started: str) -> bool:
    """Whether an evaluation that began then is too old for a promotion."""
    made = datetime.fromisoformat(started)
    return datetime.now(UTC) - (made if made.tzinfo else made.replace(tzinfo=UTC)) > timedelta(days=FRESH_DAYS)


def finite(evaluation: Evaluation) -> Check:
    """No measurement is NaN or infinite."""
    wrong = next((name for name, value in flat(evaluation.model_dump()) if not math.isfinite(value)), None)
    if wrong is not None:
        return check("numbers", False, f"{wrong} of the evaluation is no finite number")
    return check("numbers", True, "all measurements are numbers")


def flat(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested records, with their names."""
    match value:
        case bool() | str() | None:
            return
        case int() | float():
            yield name, value
        case Mapping():
            for key, one in value.items():
                yield from flat(one, f"{name}.{key}".lstrip("."))
        case list() | tuple():
            for place, one in enumerate(value):
                yield from flat(one, f"{name}.{place}")


def gate(said: Told, recipe: tuple[str, Gate] | None) -> Check:
    """The gate is the recipe's: limits that were loosened afterwards are another gate."""
    if recipe is None:
        return check("gate", False, "the statement holds no recipe that can be read")
    theirs, ours = recipe[1].model_dump(mode="json"), said.gate.model_dump(mode="json")
    other = sorted(name for name in theirs if theirs[name] != ours[name])
    if other:
        name = other[0]
        return check("gate", False, f"{name} is {ours[name]!r:.40} in gate.json and {theirs[name]!r:.40} in the recipe")
    return check("gate", True, "it is the recipe's")


def verdict(said: Told, asked: Asked) -> Check:
    """Judged again, evaluation and gate give the stored verdict, and it passed."""
    again = judge(said.gate, said.evaluation)
    stored = {one.name: one for one in said.verdict.checks}
    if said.verdict.passed != again.passed or set(stored) != {one.name for one in again.checks}:
        now, then = (("passed" if one.passed else "rejected") for one in (again, said.verdict))
        return check("verdict", False, f"verdict.json says {then}; judged again it is {now}{failures(again)}")
    for one in again.checks:
        if one.passed != stored[one.name].passed or not alike(one.value, stored[one.name].value):
            return check("verdict", False, f"verdict.json has another {one.name} than judged again: {one.why}")
    if not again.passed and not asked.forced:
        return check("verdict", False, f"its gate rejected it{failures(again)}")
    return check("verdict", True, "judged again, it is the same" + ("" if again.passed else ": rejected, and forced"))


def champion(said: Told, asked: Asked) -> Check:
    """Where the gate compares with a champion, it is the one that would be replaced now."""
    rival = said.evaluation.champion
    if said.gate.champion_margin is None or asked.reigning in {None, None if rival is None else rival.digest}:
        return check("champion", True, "no other champion reigns than the one it was compared with, if any")
    than = "none" if rival is None else rival.digest[:12]
    why = f"it was compared with {than} and {str(asked.reigning)[:12]} is champion now: {AGAIN}"
    return check("champion", asked.forced, why)


def failures(found: Verdict) -> str:
    """The failed checks of a verdict, behind a colon."""
    failed = [f"{one.name} ({one.why})" for one in found.checks if not one.passed]
    return f": {'; '.join(failed)[:300]}" if failed else ""


def alike(one: float | None, other: float | None) -> bool:
    """Whether two values of a check are the same, but for the last digits that JSON or another machine may change."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def provenant(said: Told, asked: Asked, recipe: tuple[str, Gate] | None) -> Check:
    """The statement is of this model and complete, and what it says of recipe, libraries and judgement is so."""
    try:
        wrong = astray(said, asked, recipe)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        wrong = f"it is none of ours ({type(error).__name__}: {error!s:.60})"
    return check("provenance", wrong is None, wrong or "it is of this model, and complete")


def astray(said: Told, asked: Asked, recipe: tuple[str, Gate] | None) -> str | None:
    """What is wrong with a statement of provenance; None when nothing is."""
    statement = said.statement
    if (subject := provenance.subject(statement)) != (asked.model, asked.digest):
        other = "nobody" if subject is None else f"{subject[0]} {subject[1][:12]}"
        return f"it is of {other}, and the model is {asked.model} {asked.digest[:12]}"
    for name in MATERIALS:
        if SHA.fullmatch(provenance.material(statement, name) or "") is None:
            return f"it names no digest of {name}"
    if recipe is None or recipe[0] != provenance.material(statement, "recipe"):
        return "the recipe in it has another digest than it says"
    if sha256_json(libraries(statement)) != provenance.material(statement, "constraints"):
        return "the libraries in it have another digest than it says"
    if (key := provenance.signed(statement)[0]) != asked.key:
        return f"it names the key {str(key)[:12]}, and {asked.key[:12]} signed"
    stages = {str(one.get("name", "")): one for one in byproducts(statement)}
    for name, digest in said.digests.items():
        if stages.get(name, {}).get("digest", {}).get("sha256") != digest:
            return f"it is of another {name} than {name}.json"
    inputs: dict[str, Any] = next(
        (one["annotations"]["inputs"] for name, one in stages.items() if name.startswith("evaluate")), {}
    )
    if inputs.get("student") != asked.digest:
        return f"its evaluation read the student {str(inputs.get('student'))[:12]}"
    return None


def byproducts(statement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages and judgements of a statement; none of one that is broken."""
    try:
        found = statement["predicate"]["runDetails"]["byproducts"]
    except (LookupError, TypeError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def libraries(statement: Mapping[str, Any]) -> Any:
    """The libraries of a statement by name."""
    try:
        return statement["predicate"]["buildDefinition"]["internalParameters"]["libraries"]
    except (LookupError, TypeError):
        return None


def licence(statement: Mapping[str, Any]) -> Check:
    """Teachers and data that are somebody else's name their licence."""
    try:
        materials = {one["name"]: one for one in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    except (LookupError, TypeError):
        return check("licence", False, "the statement names no materials")
    for name, one in materials.items():
        uri, said = str(one.get("uri", "")), (one.get("annotations") or {}).get("licence")
        if name in MATERIALS[2:] or uri.startswith(OWN):
            continue
        if str(said or "").strip().lower() in UNNAMED:
            return check("licence", False, f"{name} is {uri:.60} and its licence is not named: name it in the recipe")
    return check("licence", True, "what is somebody else's names its licence")


def size(version: Path, evaluation: Evaluation) -> Check:
    """The files needed to predict have the bytes that were declared."""
    found, declared = directory_bytes(version / "model"), evaluation.student.bytes
    return check("bytes", found == declared, f"it has {found} bytes, declared are {declared}", found, declared)
