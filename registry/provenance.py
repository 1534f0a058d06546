"""What a student was made of: an in-toto statement with a predicate of SLSA's provenance, stored in its evidence.

    student ← teachers, data, recipe, code, libraries; behind them the stages, each with its digest

https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.0/provenance. A digest of a folder is the SHA-256 of its
manifest, as everywhere here (registry/records.digest_directory). The same run always gives the same statement, apart
from its times and its invocation.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from registry.records import STRICT, StageRecord, sha256_json

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD, BUILDER = "urn:shrinking-frontier:compress:v1", "urn:shrinking-frontier:builder"


class Origin(BaseModel):
    """A teacher or the data: where it comes from, its licence, and the digest of what was read."""

    model_config = STRICT
    uri: str
    licence: str
    digest: str | None = Field(description="of the folder that was read; null where no stage of this run read it")


class Made(BaseModel):
    """All that a statement tells beside the stages."""

    model_config = STRICT
    model: str
    digest: str
    recipe: dict[str, Any]
    recipe_digest: str
    origins: dict[str, Origin]
    code: str = Field(description="digest of the program's own sources")
    version: str = Field(description="of the program")
    libraries: dict[str, str]
    seed: int
    run: str
    key: str = Field(description="id of the key that signs")
    when: str = Field(description="UTC, ISO 8601: when it is signed")
    judged: dict[str, str] = Field(description="digests of evaluation, gate and verdict, by name")


def statement(made: Made, stages: list[StageRecord]) -> dict[str, Any]:
    """The statement, JSON-able; `stages` in the order in which they ran."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": made.model, "digest": {"sha256": made.digest}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"recipe": made.recipe, "seed": made.seed},
                "internalParameters": {"libraries": dict(sorted(made.libraries.items()))},
                "resolvedDependencies": _materials(made),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"shrinking-frontier": made.version}},
                "metadata": {
                    "invocationId": made.run,
                    "startedOn": min((stage.started for stage in stages), default=made.when),
                    "finishedOn": made.when,
                },
                "byproducts": [*map(_stage, stages), *(_judged(name, at) for name, at in sorted(made.judged.items()))],
            },
            "signedWith": made.key,
        },
    }


def material(said: Mapping[str, Any], name: str) -> str | None:
    """The digest that a statement gives for one of its materials; None where it names none."""
    try:
        for one in said["predicate"]["buildDefinition"]["resolvedDependencies"]:
            if one["name"] == name:
                return str(one["digest"]["sha256"])
    except (LookupError, TypeError):
        pass
    return None


def subject(said: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name and digest of the model that a statement is of; None where it names none, or several."""
    try:
        (one,) = said["subject"]
        return str(one["name"]), str(one["digest"]["sha256"])
    except (LookupError, TypeError, ValueError):
        return None


def signed(said: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Id of the key that a statement names, and when it was signed; None where it does not say."""
    try:
        predicate = said["predicate"]
        return str(predicate["signedWith"]), str(predicate["runDetails"]["metadata"]["finishedOn"])
    except (LookupError, TypeError):
        return None, None


def _materials(made: Made) -> list[dict[str, Any]]:
    origins = [
        {"name": name, "uri": one.uri, "annotations": {"licence": one.licence}}
        | ({"digest": {"sha256": one.digest}} if one.digest is not None else {})
        for name, one in sorted(made.origins.items())
    ]
    ours = {"recipe": made.recipe_digest, "code": made.code, "constraints": sha256_json(made.libraries)}
    return origins + [{"name": name, "digest": {"sha256": digest}} for name, digest in ours.items()]


def _stage(stage: StageRecord) -> dict[str, Any]:
    name = "/".join(part for part in (stage.kind, stage.method, stage.role) if part)
    return {
        "name": name,
        "digest": {"sha256": stage.digest},
        "annotations": {"key": stage.key, "started": stage.started, "inputs": dict(sorted(stage.inputs.items()))},
    }


def _judged(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}
