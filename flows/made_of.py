"""What a student was made of, gathered from recipe, stages and installation for registry/provenance.py."""

import importlib.metadata
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.doctor import DISTRIBUTION, canonical, version_of
from flows.recipe import Recipe
from flows.steps import source_of, steps_of
from registry import provenance
from registry.records import Evaluation, StageRecord, Verdict, sha256_file, sha256_json

PACKAGES = ("flows", "infra", "registry", "tasks")
SOURCES = {".py", ".yaml", ".jsonl"}


def statement(
    recipe: Recipe,
    records: list[StageRecord],
    digest: str,
    evaluation: Evaluation,
    verdict: Verdict,
    key: str,
    run: str,
) -> dict[str, Any]:
    """The provenance of the student with this digest, as a run registers it."""
    judged = {"evaluation": evaluation, "gate": recipe.gate, "verdict": verdict}
    made = provenance.Made(
        model=recipe.name,
        digest=digest,
        recipe=recipe.model_dump(mode="json"),
        recipe_digest=recipe.digest,
        origins=origins(recipe, records),
        code=code(),
        version=version_of(DISTRIBUTION) or "unknown",
        libraries=libraries(),
        seed=recipe.seed,
        run=run,
        key=key,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        judged={name: sha256_json(one.model_dump(mode="json")) for name, one in judged.items()},
    )
    return provenance.statement(made, records)


def origins(recipe: Recipe, records: list[StageRecord]) -> dict[str, provenance.Origin]:
    """Teachers and data with the digest of the folder that the first stage read of each; stages run in steps' order."""
    read = {
        at: record.inputs.get(role)
        for step, record in reversed(list(zip(steps_of(recipe).steps, records, strict=False)))
        for role, at in step.inputs.items()
    }
    return {
        name: provenance.Origin(uri=source.uri, licence=source.licence, digest=read.get(source_of(name)))
        for name, source in recipe.origins.items()
    }


def code() -> str:
    """The digest of this program's own sources: equal wherever the same release is installed."""
    root = Path(__file__).parents[1]
    files = (path for name in PACKAGES for path in sorted((root / name).rglob("*")) if path.suffix in SOURCES)
    return sha256_json({path.relative_to(root).as_posix(): sha256_file(path) for path in files})


def libraries() -> dict[str, str]:
    """{distribution: version} of what this program needs, optional ones too, as far as they are installed."""
    needed = (re.match(r"[\w.-]+", line) for line in importlib.metadata.requires(DISTRIBUTION) or [])
    names = sorted({canonical(one[0]) for one in needed if one})
    return {name: found for name in names if (found := version_of(name)) is not None}
