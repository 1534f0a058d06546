"""Recipes: YAML read into one frozen model; unknown keys, wrong orders and typos are refused with the nearest name."""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from registry.gate import Gate
from registry.records import STRICT, ShrinkError, sha256_json
from tasks.data import DataConfig
from tasks.distill.logits import DistillLogitsConfig
from tasks.evaluate import EvaluateConfig
from tasks.finetune import FinetuneConfig
from tasks.floor import FloorConfig
from tasks.kinds import ChainStage
from tasks.prune.structured import PruneStructuredConfig

SHIPPED = Path(__file__).parent / "recipes"


class Source(BaseModel):
    """Where a directory comes from: `pypi:NAME==VERSION` with the file's sha256, or a local `dir:PATH`."""

    model_config = STRICT
    uri: str = Field(description="pypi:NAME==VERSION, or dir:PATH")
    sha256: str | None = Field(default=None, description="of the package file; required for pypi:")
    path: str = Field(default=".", description="directory or .tar.gz inside the package")
    licence: str = Field(default="unknown", description="licence, as the card states it")


class Recipe(BaseModel):
    """One compression, from the teacher's source to the gate that decides."""

    model_config = STRICT
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="also the registered model's name")
    task: Literal["classify"] = Field(default="classify", description="what the model is for")
    seed: int = Field(default=0, ge=0, description="of every random choice")
    teacher: Source
    data_source: Source
    data: DataConfig
    floor: FloorConfig = FloorConfig()
    stages: tuple[ChainStage, ...] = Field(min_length=1, description="in the order they run")
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: Gate = Gate()

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's content."""
        return sha256_json(self.model_dump(mode="json"))


def shipped() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load(name_or_path: str) -> Recipe:
    """Read a shipped recipe by name or any YAML file by path; raises ShrinkError in one sentence."""
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(name_or_path, shipped(), n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"shipped are: {', '.join(shipped())}."
        raise ShrinkError(f"recipe '{name_or_path}' does not exist; {hint}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ShrinkError(f"recipe '{path}' is not YAML: {str(error).splitlines()[0]}; mend that line.") from None
    return parse(raw, str(path))


def parse(raw: Any, origin: str) -> Recipe:
    """Validate a recipe's content; raises ShrinkError naming the key, its value and the nearest valid one."""
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise ShrinkError(f"recipe '{origin}': {sentence(error)}") from None
    check_order(recipe)
    return recipe


def sentence(error: ValidationError) -> str:
    """The first validation error as one sentence."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        near = difflib.get_close_matches(key, known_keys(), n=1)
        return f"unknown key '{where}'" + (f"; did you mean '{near[0]}'?" if near else "; remove it.")
    return f"'{where}' = {first['input']!r:.80}: {first['msg']}."


def known_keys() -> list[str]:
    """Every key that some part of a recipe has."""
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.update(node.get("properties", {}))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(Recipe.model_json_schema())
    return sorted(found)


def check_order(recipe: Recipe) -> None:
    """Refuse a stage that reads what no earlier stage made; the student starts as the fine-tuned teacher."""
    held = {"data": "rows", "teacher": "source", "student": "source", "floor": "floor"}
    for number, stage in enumerate(recipe.stages, start=1):
        name = f"{stage.kind}/{getattr(stage, 'method', None) or '-'}".removesuffix("/-")
        for role, wanted in stage.reads.items():
            role = "student" if role == "model" else role
            if held.get(role) not in wanted.split("|"):
                raise ShrinkError(
                    f"recipe '{recipe.name}': stage {number} ({name}) needs {role} as {wanted}, but it is "
                    f"{held.get(role) or 'not made yet'} there; move the stage or add the one that makes it."
                )
        role, made = stage.writes
        held["student" if role == "model" else role] = made
        if role == "teacher":
            held["student"] = made
    if held["student"] != "onnx":
        raise ShrinkError(f"recipe '{recipe.name}': the stages end without a deployable; add kind: export.")


def smoke(recipe: Recipe) -> Recipe:
    """The same chain on a 2-layer clone and a few rows, with an open gate: shows in a minute that all of it runs."""
    stages = []
    for stage in recipe.stages:
        match stage:
            case FinetuneConfig():
                stage = stage.model_copy(update={"keep_layers": 2, "epochs": 1, "tuned_layers": 1})
            case PruneStructuredConfig() if stage.layers:
                stage = stage.model_copy(update={"layers": (0, 1) if isinstance(stage.layers, tuple) else [0, 1]})
            case DistillLogitsConfig():
                stage = stage.model_copy(update={"epochs": 1})
        stages.append(stage)
    data = recipe.data.model_copy(update={"limit": 400})
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-smoke",
            "stages": tuple(stages),
            "data": data,
            "gate": Gate(beat_floor=False, bytes_ratio_min=1.0),
        }
    )
