"""What a version's evidence says that its gate went by: evaluation, gate, verdict and provenance, as files.

They are believed only of a folder whose signature was verified (registry/versions.fetch). MLflow's tag of a verdict is
for people: the verdict is what stands here.
"""

import json
from pathlib import Path
from typing import Any

from registry.gate import Gate
from registry.records import Evaluation, Verdict, sha256_json

EVALUATION, GATE, VERDICT, PROVENANCE = "evaluation.json", "gate.json", "verdict.json", "provenance.json"


class Incomplete(RuntimeError):
    """Evidence that lacks one of its files, or holds one that says nothing; the text is a whole sentence."""


def write(
    evidence: Path, digest: str, evaluation: Evaluation, gate: Gate, verdict: Verdict, provenance: dict[str, Any]
) -> None:
    """Write the four files into an evidence folder; the evaluation names the digest of the model that it is of."""
    _write(evidence / EVALUATION, {"model": digest, "evaluation": evaluation.model_dump(mode="json")})
    _write(evidence / GATE, gate.model_dump(mode="json"))
    _write(evidence / VERDICT, verdict.model_dump(mode="json"))
    _write(evidence / PROVENANCE, provenance)


def evaluation(version: Path) -> tuple[str, Evaluation]:
    """The evaluation of a fetched version, and the digest of the model that it is of. Raises Incomplete."""
    value = _read(version, EVALUATION)
    try:
        return str(value["model"]), Evaluation.model_validate_json(json.dumps(value["evaluation"]))
    except (ValueError, LookupError) as error:
        raise _damaged(EVALUATION) from error


def gate(version: Path) -> Gate:
    """The gate that a fetched version was judged by. Raises Incomplete."""
    try:
        return Gate.model_validate_json(json.dumps(_read(version, GATE)))
    except ValueError as error:
        raise _damaged(GATE) from error


def verdict(version: Path) -> Verdict:
    """The verdict on a fetched version. Raises Incomplete."""
    try:
        return Verdict.model_validate_json(json.dumps(_read(version, VERDICT)))
    except ValueError as error:
        raise _damaged(VERDICT) from error


def provenance(version: Path) -> dict[str, Any]:
    """The statement of what a fetched version was made of (registry/provenance.py). Raises Incomplete."""
    return _read(version, PROVENANCE)


def digests(version: Path) -> dict[str, str]:
    """{name: SHA-256} of evaluation, gate and verdict as they were written down, whatever fields came since."""
    stored = {EVALUATION: _read(version, EVALUATION).get("evaluation")}
    stored |= {name: _read(version, name) for name in (GATE, VERDICT)}
    return {name.removesuffix(".json"): sha256_json(value) for name, value in stored.items()}


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(version: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((version / "evidence" / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Incomplete(f"the evidence has no {name}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(name) from error
    if not isinstance(value, dict):
        raise _damaged(name)
    return value


def _damaged(name: str) -> Incomplete:
    return Incomplete(f"the evidence holds a {name} that cannot be read")
