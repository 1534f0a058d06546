"""What a run will do, before it does it: every stage's weights, bytes, memory, time and energy; and what cannot fit.

`shrink plan` shows it, a run keeps it in its directory (flows/planned.py), and both refuse by it. No server is asked,
torch is not imported: sizes come from config.json and the rows, re-use from the local index.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from flows import cache, units, ways
from flows.forecast.amounts import Forecast, Made
from flows.forecast.counted import Counted
from flows.forecast.pace import Pace, pace
from flows.forecast.rules import foretell
from flows.forecast.rules_decoder import CountedDocuments
from flows.planned import Plan, StagePlan
from flows.recipe import BEHAVIOUR, Recipe, Source
from flows.settings import Settings
from flows.steps import DATA, TEACHER, Step, name_of, source_of, steps_of
from registry.records import Band, ShrinkError, StageRecord, digest_directory, sha256_file, sha256_json
from tasks import layout, shape
from tasks.reload import ReloadConfig

COPIES = 2  # of an artifact on a disk that holds the local S3, too
ROOM_MB = 100.0  # logs, databases, temporary files
SPREAD = 1.25  # memory may be as much more or less than foretold
HASHED = 4e8  # bytes a second of a re-used artifact that is hashed again


def make(recipe: Recipe, teacher: Path, data: Path, here: Settings, others: Mapping[str, Path] | None = None) -> Plan:
    """The plan of a run of this recipe with these sources on this machine; `others`: further teachers by name."""
    counted, made = counts(recipe, teacher, data, others or {})
    steps, judged = steps_of(recipe)
    last = [
        Step(name_of(len(steps), recipe.evaluate), recipe.evaluate, "evaluation", judged),
        Step(name_of(len(steps) + 1, ReloadConfig()), ReloadConfig(), "reload", {}),
    ]
    digests = sources_digests(recipe, teacher, data, here.home, others or {})
    speed, stages = pace(here.home, here.threads), []
    for step in (*steps, *last):
        forecast = foretell(step.config, {role: made[at] for role, at in step.inputs.items()}, counted)
        everywhere = forecast.ram_mb * ways.of(step.config, here).processes  # each process holds all of it
        forecast = forecast.model_copy(update={"ram_mb": everywhere})
        record = remembered(step, digests, recipe.seed, here)
        if record is not None:
            digests[step.name] = record.digest
            forecast = forecast.model_copy(update={"made": forecast.made.model_copy(update={"bytes": record.bytes})})
        made[step.name] = forecast.made
        stages.append(planned_stage(step, forecast, record is not None, speed))
    return Plan(
        recipe=recipe.name, recipe_digest=recipe.digest, threads=here.threads, pace=speed.words, stages=tuple(stages)
    )


def planned_stage(step: Step, forecast: Forecast, reused: bool, speed: Pace) -> StagePlan:
    """One line of a plan."""
    method, made = getattr(step.config, "method", None), forecast.made
    seconds = speed.seconds(step.config.kind, method, forecast.work, forecast.parallel)
    if reused:
        hashing = 0.05 + made.bytes / HASHED
        seconds = Band(low=hashing / 2, central=hashing, high=2 * hashing)
    return StagePlan(
        name=step.name,
        kind=step.config.kind,
        method=method,
        role=step.role,
        reused=reused,
        known=forecast.known,
        parameters=made.shape.parameters if made.shape else made.weights,
        bytes=made.bytes,
        ram_mb=0.0 if reused else forecast.ram_mb,
        work=forecast.work,
        seconds=seconds,
        kwh=Band(low=0, central=0, high=0) if reused else speed.kwh(seconds),
    )


def counts(
    recipe: Recipe, teacher: Path, data: Path, others: Mapping[str, Path]
) -> tuple[Counted | CountedDocuments, dict[str, Made]]:
    """The data counted, and what the sources are, by their names."""
    rows = Made(format="source", bytes=0)
    if recipe.task == "generate":
        documents = CountedDocuments(recipe, teacher, data, others.get("second"))
        return documents, {TEACHER: documents.source, DATA: rows, **{source_of(name): rows for name in others}}
    folder = layout.find_model(teacher)
    counted = Counted(recipe, folder, data)
    source = Made(format="source", bytes=0, shape=shape.of_files(folder), tokenizer=counted.tokenizer_bytes)
    made = {TEACHER: source, DATA: rows}
    for name, directory in others.items():
        if name == BEHAVIOUR:
            made[source_of(name)] = rows
            continue
        found = layout.find_model(directory)
        made[source_of(name)] = Made(format="source", bytes=0, shape=shape.of_files(found), tokenizer=cut_by(found))
    return counted, made


def cut_by(folder: Path) -> int:
    """Bytes of a model folder's tokenizer."""
    return (folder / "tokenizer.json").stat().st_size


def sources_digests(
    recipe: Recipe, teacher: Path, data: Path, home: Path, others: Mapping[str, Path]
) -> dict[str, str]:
    """The digests that a run's keys begin with; none are needed where nothing was computed before."""
    if not any((home / "index").glob("*.json")) and not any((home / "index" / "unsent").glob("*.json")):
        return {}
    more = {source_of(name): digest_of(recipe.more[name], path) for name, path in others.items()}
    return {TEACHER: digest_of(recipe.teacher, teacher), DATA: digest_of(recipe.data_source, data), **more}


def digest_of(source: Source, directory: Path) -> str:
    """The digest that a run gives a source: of one file, that of a directory which holds nothing else."""
    scheme, _, rest = source.uri.partition(":")
    if scheme != "file":
        return digest_directory(directory)
    file = Path(rest)
    return sha256_json({file.name: {"size": file.stat().st_size, "sha256": sha256_file(file)}})


def remembered(step: Step, digests: dict[str, str], seed: int, here: Settings) -> StageRecord | None:
    """The record of this very stage in the local index, its artifact in the cache; a run will hash it again."""
    if not step.inputs or not set(step.inputs.values()) <= digests.keys():
        return None
    inputs = {role: digests[at] for role, at in step.inputs.items()}
    key = cache.key_of(step.config, inputs, seed, here.threads, ways.of(step.config, here))
    record, _ = cache.recall(here.home, key)
    return record if record is not None and cache.path_of(here.home, record.digest).is_dir() else None


def refuse(plan: Plan, here: Settings) -> None:
    """Raise ShrinkError, naming the stage, for what cannot fit even if all is foretold too high."""
    allowed, limit = memory(here)
    need = ROOM_MB
    free = free_mb(here.home)
    for number, stage in enumerate(plan.stages, start=1):
        if stage.reused:
            continue
        where = f"stage {number} ({units.stage_name(stage.kind, stage.method, stage.role)})"
        if stage.ram_mb / SPREAD > allowed:
            raise ShrinkError(
                f"{where} needs about {stage.ram_mb:.0f} MB of memory but {limit} {allowed:.0f}: take smaller batches, "
                "a shorter data.max_length or fewer rows, or give it more."
            )
        if stage.seconds.low > here.time_limit:
            raise ShrinkError(
                f"{where} takes about {units.duration(stage.seconds.central)} but SHRINK_TIME_LIMIT is "
                f"{units.duration(here.time_limit)}: train less, or raise it."
            )
        need += COPIES * stage.bytes / 1e6
        if need > free:
            raise ShrinkError(
                f"{where} is where the disk would be full: all up to it need about {need:.0f} MB in '{here.home}' and "
                f"{free:.0f} MB are free; make room there."
            )


def memory(here: Settings) -> tuple[float, str]:
    """MB at which a stage is ended, and what says so."""
    if here.memory_mb:
        return here.memory_mb, "SHRINK_MEMORY_MB allows"
    return psutil.virtual_memory().total * 0.9 / 1e6, "this machine has"


def free_mb(home: Path) -> float:
    """Free MB on the disk of a home that may not be there yet."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    return shutil.disk_usage(there).free / 1e6


def facts(plan: Plan, here: Settings) -> dict[str, Any]:
    """The plan with its totals and limits, for --json."""
    allowed, _ = memory(here)
    totals = {
        "seconds": plan.total("seconds").model_dump(),
        "kwh": plan.total("kwh").model_dump(),
        "disk_mb": sum(COPIES * stage.bytes for stage in plan.computed) / 1e6,
        "ram_mb": max((stage.ram_mb for stage in plan.computed), default=0.0),
        "reused": len(plan.stages) - len(plan.computed),
    }
    limits = {"ram_mb": allowed, "disk_mb": free_mb(here.home), "seconds_a_stage": here.time_limit}
    return {**plan.model_dump(mode="json"), "total": totals, "limits": limits}
