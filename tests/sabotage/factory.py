"""Registers a candidate as a run does (flows/outcome.register), good or bad, and has it promoted as a run has."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from flows import admit, cache, keys, outcome, settings
from flows.obtain import Workshop
from flows.recipe import Recipe
from flows.steps import source_of, steps_of
from registry import gate, promotion, signing
from registry.records import Band, Evaluation, Footprint, StageRecord, Verdict, digest_directory, sha256_json

Tamper = Callable[[Path], None]
STAGES: list[dict[str, Any]] = [
    {"kind": "finetune"},
    {"kind": "export"},
    {"kind": "quantize", "method": "int8_dynamic"},
]
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")  # old evaluations are refused
COMPARED = {"texts": 30, "largest": 0.1, "mean": 0.01, "agreement": 0.99, "runtime": "onnxruntime 1"}
GATE: dict[str, Any] = {"beat_floor": False, "retention_min": 0.5, "bytes_ratio_min": 1.1}


class Candidate(BaseModel):
    """What a run would have at its end, each part true or false."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    student: Path
    teacher: Path
    data: Path
    floor: Path
    evaluated: Path  # holds golden.json
    evaluation: Evaluation
    task: str = "classify"
    recipe: dict[str, Any] = {}  # in the place of what the recipe says
    gate: dict[str, Any] = GATE
    verdict: Verdict | None = None  # in the place of what the gate says
    started: str = YESTERDAY


def recipe_of(name: str, candidate: Candidate) -> Recipe:
    said: dict[str, Any] = {
        "name": name,
        "task": candidate.task,
        "teacher": {"uri": "pypi:teacher==1", "sha256": "0" * 64, "licence": "MIT"},
        "data_source": {"uri": "pypi:rows==1", "sha256": "1" * 64, "licence": "CC-BY-4.0"},
        "data": {"kind": "data", "file": "rows.csv", "max_length": 16},
        "stages": STAGES if candidate.task == "classify" else [{"kind": "adopt"}, *STAGES[1:]],
        "evaluate": {"task": candidate.task, "rounds": 20, "bootstrap": 100},
        "gate": candidate.gate,
    }
    return Recipe.model_validate(said | candidate.recipe)


def records(recipe: Recipe, candidate: Candidate) -> list[StageRecord]:
    """The records of a run whose stages made this candidate."""
    steps, judged = steps_of(recipe)
    made = {source_of(what): sha256_json(what) for what in recipe.origins}
    real = {name: digest_directory(getattr(candidate, role)) for role, name in judged.items()}
    found = []
    for step in steps:
        made[step.name] = real.get(step.name, sha256_json(step.name))
        found.append(record(step.config, step.role, made[step.name], {r: made[at] for r, at in step.inputs.items()}))
    inputs = {role: made[at] for role, at in judged.items()}
    last = record(recipe.evaluate, "evaluation", digest_directory(candidate.evaluated), inputs)
    return [*found, last.model_copy(update={"started": candidate.started})]


def record(config: Any, role: str, digest: str, inputs: dict[str, str]) -> StageRecord:
    return StageRecord(
        key=sha256_json([digest, role, inputs]),
        kind=config.kind,
        method=getattr(config, "method", None),
        role=role,
        digest=digest,
        bytes=1,
        inputs=inputs,
        config=config.model_dump(mode="json"),
        footprint=Footprint(kwh=Band(low=0.1, central=0.2, high=0.4), seconds=5.0, tier="modelled"),
        cpu_seconds=7.0,
        peak_rss_mb=300.0,
        started=YESTERDAY,
        measured=COMPARED if config.kind == "compare" else {},
    )


class Yard(BaseModel):
    """Where candidates are registered: the servers of the session, a home, an MLflow run."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    client: Any
    s3: Any
    bucket: str
    home: Path
    experiment: str
    scratch: Path

    def shop(self, name: str, made: list[StageRecord], recipe: Recipe) -> Workshop:
        directory = self.scratch / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
        return Workshop(settings.settings(), self.s3, self.bucket, directory, 0, Future(), records=made)

    def register(self, name: str, candidate: Candidate, tamper: Tamper | None = None) -> str:
        """The version of a candidate; `tamper` changes the folder with evidence/ before it is signed."""
        recipe = recipe_of(name, candidate)
        shop = self.shop(name, records(recipe, candidate), recipe)
        verdict = candidate.verdict or gate.judge(recipe.gate, candidate.evaluation)
        keep(self.home, candidate.data, candidate.teacher)
        journal: dict[str, Any] = {
            "run_id": f"20261127-120000-{name}-0000",
            "recipe": name,
            "recipe_digest": recipe.digest,
            "mlflow_run_id": self.client.create_run(self.experiment).info.run_id,
            "status": "running",
            "verdict": None,
            "evaluation": None,
            "version": None,
            "cached": False,
        }
        with pytest.MonkeyPatch.context() as patch:
            if tamper is not None:
                patch.setattr(signing, "sign", tampering(tamper))
            return outcome.register(
                shop, recipe, journal, candidate.evaluation, verdict, candidate.student, candidate.evaluated
            )

    def promote(self, name: str, version: str) -> admit.Admission:
        """Promoted as a run does it, if it is admitted."""
        found = admit.admitted(name, version)
        if found.passed:
            lock = self.home / "locks" / f"promotion-{name}.lock"
            seen = promotion.Judged(digest=str(found.digest), evidence=None, passed=True)
            where = (self.client, self.s3, self.bucket, lock, name)
            held = keys.of_ledger(settings.settings())
            promotion.promote(*where, version, "tests", "admitted", seen, keys=held)
        return found


def tampering(tamper: Tamper) -> Callable[..., Any]:
    """Signing by somebody who has a trusted key and changes the evidence just before."""
    real = signing.sign

    def sign(name: str, parts: dict[str, Path], key: Any, target: Path) -> Any:
        tamper(parts["evidence"])
        return real(name, parts, key, target)

    return sign


def keep(home: Path, *artifacts: Path) -> None:
    """Artifacts in the local cache, as stages leave them."""
    for path in artifacts:
        target = cache.path_of(home, digest_directory(path))
        if not target.exists():
            shutil.copytree(path, target)


def edited(name: str, change: Callable[[Any], Any]) -> Tamper:
    """Changes one JSON file of the evidence."""

    def tamper(evidence: Path) -> None:
        path = evidence / name
        path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")

    return tamper
