"""What becomes of a run: tracking in MLflow, the registered version with its evidence, the reload, the promotion."""

import getpass
import json
import math
import shutil
from pathlib import Path
from typing import Any

from flows.obtain import Workshop
from flows.recipe import Recipe
from flows.servers import client
from flows.settings import settings
from registry import card, promotion, runs, versions
from registry.footprint import total
from registry.records import Evaluation, Footprint, StageRecord, Verdict, digest_directory


def open_tracking(recipe: Recipe, journal: dict[str, Any]) -> None:
    """Open the parent MLflow run, or go on with the one of a resumed run."""
    tags = {"shrink.recipe": recipe.digest, runs.RUN_TAG: str(journal["run_id"])}
    journal["mlflow_run_id"] = runs.open_run(client(), recipe.name, str(journal["run_id"]), tags)


def close_tracking(shop: Workshop, journal: dict[str, Any]) -> None:
    """Write the stages as child runs and end the parent with the run's status."""
    parent = journal["mlflow_run_id"]
    if parent is None:
        return
    if journal["status"] in {"passed", "rejected"}:
        for record in shop.records:
            runs.log_stage(client(), parent, record, list(shop.curves.get(record.key, ())))
        runs.log_evaluation(
            client(),
            parent,
            Evaluation.model_validate(journal["evaluation"]),
            Verdict.model_validate(journal["verdict"]),
        )
    footprint = spent_by(shop.records)
    match journal["status"]:
        case "passed" | "rejected":
            runs.close_run(client(), parent, "FINISHED", footprint)
        case "cancelled":
            runs.close_run(client(), parent, "KILLED", footprint)
        case _:
            runs.close_run(client(), parent, "FAILED", footprint)


def register(
    shop: Workshop,
    recipe: Recipe,
    journal: dict[str, Any],
    evaluation: Evaluation,
    verdict: Verdict,
    student: Path,
    evaluated: Path,
) -> str:
    """Register the student with its evidence (idempotent by digest and recipe); returns the version."""
    digest = digest_directory(student)
    footprint = spent_by(shop.records)
    licences = {"teacher": recipe.teacher.licence, "data": recipe.data_source.licence}
    text = card.render(recipe.name, recipe.model_dump(mode="json"), evaluation, verdict, footprint, licences)
    evidence = shop.directory / "evidence"
    shutil.rmtree(evidence, ignore_errors=True)
    evidence.mkdir()
    shutil.copy(evaluated / "golden.json", evidence / "golden.json")
    (evidence / "README.md").write_text(text)
    show = shown(recipe, digest, evaluation, verdict, shop.records, footprint.model_dump(mode="json"))
    (evidence / "show.json").write_text(json.dumps(show, indent=1))
    tags = {
        versions.DIGEST_TAG: digest,
        versions.RECIPE_TAG: recipe.digest,
        "shrink.inputs": json.dumps({record.kind: record.digest[:16] for record in shop.records}),
        versions.VERDICT_TAG: "passed" if verdict.passed else "rejected",
    }
    version = versions.register(
        client(), recipe.name, student, evidence, digest, tags, description(verdict), str(journal["mlflow_run_id"])
    )
    journal.update(version=version, digest=digest)
    journal.update(evaluation=evaluation.model_dump(mode="json"), verdict=verdict.model_dump(mode="json"))
    return version


def spent_by(records: list[StageRecord]) -> Footprint:
    """Energy and time of all stages, those taken from the index with what they cost when they ran."""
    added = total(record.footprint for record in records)
    return Footprint(
        kwh=added.kwh if added.unmeasured == 0 else None,
        seconds=added.seconds,
        cpu_kwh=added.cpu_kwh,
        ram_kwh=added.ram_kwh,
        gpu_kwh=added.gpu_kwh,
        tier=", ".join(added.tiers),
    )


def description(verdict: Verdict) -> str:
    """The verdict as a Markdown table, shown on the version's page."""
    lines = ["| check | value | limit | passed |", "|---|---|---|---|"]
    lines += [f"| {c.name} | {c.value} | {c.limit} | {'yes' if c.passed else 'NO'} |" for c in verdict.checks]
    return "\n".join(lines)


def ratio(above: float | None, below: float | None) -> float | None:
    """above / below, or None where that has no meaning."""
    return above / below if above is not None and below else None


def shown(
    recipe: Recipe,
    digest: str,
    evaluation: Evaluation,
    verdict: Verdict,
    records: list[StageRecord],
    footprint: dict[str, Any],
) -> dict[str, Any]:
    """What `shrink show MODEL@alias --json` says of a version (version number and aliases are added there)."""
    teacher, student, floor = evaluation.teacher, evaluation.student, evaluation.floor
    kwh = footprint["kwh"]
    return {
        "model": recipe.name,
        "digest": digest,
        "verdict": verdict.model_dump(mode="json"),
        "retention": evaluation.retention.model_dump(),
        "lift_retained": evaluation.lift_retained.model_dump(),
        "accuracy": {"teacher": teacher.accuracy, "student": student.accuracy, "floor": floor.accuracy},
        "bytes": {
            "teacher": teacher.bytes,
            "student": student.bytes,
            "floor": floor.bytes,
            "ratio": ratio(teacher.bytes, student.bytes),
        },
        "latency_ms": {
            "teacher": teacher.p50_ms,
            "student": student.p50_ms,
            "floor": floor.p50_ms,
            "ratio": ratio(teacher.p50_ms, student.p50_ms),
        },
        "parameters": {"teacher": teacher.parameters, "student": student.parameters},
        "footprint": {"kwh": kwh["central"] if kwh else None, "gco2e": None, "seconds": footprint["seconds"]},
        "stages": [
            {
                "kind": record.kind,
                "method": record.method,
                "digest": record.digest,
                "seconds": record.footprint.seconds,
                "kwh": record.footprint.kwh.central if record.footprint.kwh else None,
            }
            for record in records
        ],
        "recipe_digest": recipe.digest,
    }


def fetch(shop: Workshop, name: str, version: str) -> Path:
    """The registered version fetched anew from the registry, verified against its digest tag."""
    target = shop.directory / "fetched"
    shutil.rmtree(target, ignore_errors=True)
    return versions.fetch(client(), name, version, target)


def promote(shop: Workshop, name: str, version: str, journal: dict[str, Any]) -> None:
    """Make the version champion, with its ledger entry."""
    lock = shop.settings.home / "locks" / f"promotion-{name}.lock"
    why = f"passed its gate in run {journal['run_id']}"
    promotion.promote(client(), shop.s3, shop.bucket, lock, name, version, getpass.getuser(), why)


def split_name(model: str) -> tuple[str, str]:
    """MODEL@ALIAS (or MODEL@VERSION) in its two parts; without one, champion is meant."""
    name, _, wanted = model.partition("@")
    return name, wanted or "champion"


def fetched(model: str, home: Path) -> tuple[str, Path]:
    """A version and its verified local directory (model/ and evidence/)."""
    name, wanted = split_name(model)
    version = versions.resolve(client(), name, wanted)
    return version, versions.fetch(client(), name, version, home / "models" / name / version)


def describe(model: str) -> dict[str, Any]:
    """All that `shrink show` says of a version."""
    version, directory = fetched(model, settings().home)
    name, _ = split_name(model)
    facts: dict[str, Any] = json.loads((directory / "evidence" / "show.json").read_text())
    seen = versions.describe(client(), name, version)
    return {"version": version, "aliases": seen["aliases"]} | facts


def predictions(model: str, texts: list[str], home: Path) -> list[dict[str, Any]]:
    """Label and probability of each text by a registered version."""
    from tasks import runtime

    _, directory = fetched(model, home)
    model_directory = directory / "model"
    labels = runtime.settings(model_directory)["labels"]
    found = []
    for text, row in zip(texts, runtime.predict(model_directory, texts).tolist(), strict=True):
        weights = [math.exp(value - max(row)) for value in row]
        best = max(range(len(row)), key=row.__getitem__)
        found.append({"text": text, "label": labels[best], "score": weights[best] / sum(weights)})
    return found
