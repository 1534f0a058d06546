"""Walks a recipe's stages on a data directory without any server; what was computed before is re-used by its key.

Used by benchmarks/crossfit.py and benchmarks/ablations.py. Every stage runs in its own process, as in the real flow.
"""

import json
from pathlib import Path
from typing import Any

from flows import roles, sources
from flows.recipe import Recipe
from flows.settings import worker_environment
from registry.records import digest_directory, sha256_json
from tasks.data import DataConfig, labelled_rows, transfer_rows, write_facts, write_rows
from tasks.export.onnx import OnnxConfig
from tasks.kinds import AnyStageConfig, code_digest
from tasks.splits import normalise
from tasks.stage import StageCall, run_stage


def done(work: Path, config: AnyStageConfig, inputs: dict[str, Path], seed: int, threads: int) -> Path:
    """The directory of a stage (with out/ and result.json), run now unless it was run before."""
    digests = {role: digest_directory(path) for role, path in sorted(inputs.items())}
    key = sha256_json([config.model_dump(mode="json"), digests, code_digest(config), seed, threads])
    directory = (work / f"{config.kind}-{key[:16]}").absolute()
    if not (directory / "out").is_dir():
        call = StageCall(
            name=directory.name,
            config=config.model_dump(mode="json"),
            inputs={role: str(path) for role, path in inputs.items()},
            directory=str(directory),
            seed=seed,
            threads=threads,
            environment=worker_environment(threads),
            key=key,  # a killed training goes on at its checkpoint
        )
        run_stage.fn(call)
    return directory


def walk(recipe: Recipe, data: Path, work: Path, threads: int) -> dict[str, Path]:
    """Run floor and stages; the directories of the last stage of each role (and `measured`, of the last distil)."""
    source = sources.resolve(recipe.teacher, work)
    given = {"data": data, "teacher": source}
    read = {role: given[role] for role in recipe.floor.reads}
    floor = done(work, recipe.floor, read, recipe.seed, threads) / "out"
    others = {name: sources.resolve(source, work) for name, source in recipe.teachers.items()}
    held = roles.first({"teacher": source, **others, "data": data, "floor": floor}, recipe.stages)
    for stage in recipe.stages:
        directory = done(work, stage, roles.read(held, stage), recipe.seed, threads)
        roles.write(held, stage, directory / "out")
    held["deployable"] = done(work, OnnxConfig(), {"model": held["teacher"]}, recipe.seed, threads) / "out"
    return held


def evaluated(recipe: Recipe, held: dict[str, Path], work: Path, threads: int) -> Path:
    """The evaluation's directory: out/predictions.safetensors and the whole evaluation in result.json."""
    inputs = {"teacher": held["deployable"], "student": held["student"], "floor": held["floor"], "data": held["data"]}
    return done(work, recipe.evaluate, inputs, recipe.seed, threads)


def result(directory: Path) -> dict[str, Any]:
    """What a stage measured."""
    found: dict[str, Any] = json.loads((directory / "result.json").read_text())["measured"]
    return found


def write_data(out: Path, config: DataConfig, source: Path, part_of: dict[str, str]) -> None:
    """A data directory whose split is given: cluster (normalised text) to train, validation or test."""
    rows, labels = labelled_rows(source, config)
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        splits[part_of[normalise(row["text"])]].append(row)
    splits["transfer"] = transfer_rows(source, config, {normalise(row["text"]) for row in rows})
    out.mkdir(parents=True, exist_ok=True)
    for name, part in splits.items():
        write_rows(out / f"{name}.jsonl", part)
    write_facts(out, config, labels, {name: len(part) for name, part in splits.items()})
