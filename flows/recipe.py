"""Recipes: YAML read into one frozen model; unknown keys, wrong orders and typos are refused with the nearest name."""

import copy
import difflib
import math
import os
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from flows import fit, order, recipe_file
from registry.gate import OPEN, SMOKE, Gate, is_smoke
from registry.records import STRICT, ShrinkError, Task, sha256_json
from tasks.data import DataConfig
from tasks.distill.quantized import TargetMethods
from tasks.evaluate import EvaluateConfig
from tasks.floor import FloorConfig
from tasks.kinds import (
    AnyChainConfig,
    AnyData,
    AnyEvaluate,
    AnyFloor,
    ChainStage,
    DataTasks,
    EvaluateTasks,
    FloorTasks,
    methods,
)
from tasks.teachers import MAIN, Maker

SHORT = reprlib.Repr()  # a repr that stays short whatever is nested
SHORT.maxstring = 80
BEHAVIOUR = "behaviour"
LOCAL = ("dir", "file")  # schemes of sources that are paths
COUNTABLE = 2**53  # whole numbers beyond are no floats
NAME = r"^[a-z0-9][a-z0-9-]{0,55}$"
NAMING = "a name has 1 to 56 lowercase letters, digits and dashes, the first no dash"
DATA: dict[int | str, type[BaseModel]] = dict(zip(("rows", "documents"), get_args(DataTasks), strict=True))
PARTS: dict[str, tuple[type[BaseModel], ...]] = {
    "floor": get_args(FloorTasks),
    "evaluate": get_args(EvaluateTasks),
}


class Source(BaseModel):
    """Where a directory comes from: `pypi:` or `deb:NAME==VERSION` with its sha256, `dir:PATH` or one `file:PATH`.

    A relative PATH starts at the recipe file's folder, wherever the command is typed. `models:/NAME@ALIAS` (or
    `/VERSION`) is a version in MLflow's registry, taken when the run begins.
    """

    model_config = STRICT
    uri: str = Field(
        description="pypi:NAME==VERSION, deb:NAME==VERSION, models:/NAME@ALIAS, or dir:PATH or file:PATH, relative "
        "to the recipe file"
    )
    sha256: str | None = Field(
        default=None, description="of the package file, required for pypi: and deb:; of models: the content digest"
    )
    path: str = Field(default=".", description="directory or .tar.gz inside the package, directory inside the version")
    licence: str = Field(default="unknown", description="licence, as the card states it")


class Recipe(BaseModel):
    """One compression, from the teacher's source to the gate that decides."""

    model_config = STRICT
    name: str = Field(pattern=NAME, description="also the registered model's name")
    task: Task = Field(default="classify", description="what the model is for")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of every random choice")
    teacher: Source
    teachers: dict[Maker, Source] = Field(
        default={}, description="further teachers by name; a finetune stage of that name starts there"
    )
    data_source: Source
    second_source: Source | None = Field(
        default=None, description="of text of another domain (task generate), which data.second_file is a file of"
    )
    behaviour: Source | None = Field(
        default=None,
        description="of checks that a model must pass, one .jsonl or .csv as file:PATH (tasks/checklist.py)",
    )
    data: AnyData
    floor: AnyFloor = FloorConfig()
    stages: tuple[ChainStage, ...] = Field(min_length=1, description="in the order they run")
    evaluate: AnyEvaluate = EvaluateConfig()
    gate: Gate = Gate()
    keep_text: Literal["none", "hash", "sample"] = Field(
        default="none",
        description="what of the judged texts may leave this machine, as evidence: nothing, a keyed hash of each "
        "(.shrink/keys/text.key finds a row again), or a few of them on the card",
    )

    @model_validator(mode="before")
    @classmethod
    def _for_its_task(cls, raw: Any) -> Any:
        """Data, floor and evaluation are those of the recipe's task where they do not say so themselves."""
        if not isinstance(raw, dict) or raw.get("task") not in {"embed", "generate"}:
            return raw
        task = raw["task"]
        own = {part: raw.get(part, {}) for part in ("floor", "evaluate")}
        if task == "generate" and "data" in raw:
            own["data"] = raw["data"]
        return raw | {part: {"task": task} | one if isinstance(one, dict) else one for part, one in own.items()}

    @property
    def rows(self) -> DataConfig:
        """The data of a recipe whose texts are rows, with the columns to keep; one of task generate has documents."""
        assert isinstance(self.data, DataConfig)
        return self.data.model_copy(update={"kept": getattr(self.evaluate, "slices", ())})

    @property
    def origins(self) -> dict[str, Source]:
        """Where everything comes from: teacher, further teachers by name, data."""
        second = {} if self.second_source is None else {"second": self.second_source}
        return {MAIN: self.teacher, **self.teachers, "data": self.data_source, **second}

    @property
    def more(self) -> dict[str, Source]:
        """What else is read: further teachers by name, text of a second domain, behaviour checks."""
        others = {name: source for name, source in self.origins.items() if name not in {MAIN, "data"}}
        return others if self.behaviour is None else {**others, BEHAVIOUR: self.behaviour}

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's content; of a local source its last name alone, so that moving it changes nothing.

        What lies there counts by its own digest, in the key of every stage that reads it. A registered teacher whose
        content digest is known counts by that, whatever its version's number.
        """
        return digest_of(self.model_dump(mode="json"))

    def with_sources(self, change: Callable[[Source], Source]) -> "Recipe":
        """The recipe with each of its sources changed."""
        return self.model_copy(
            update={
                "teacher": change(self.teacher),
                "teachers": {name: change(source) for name, source in self.teachers.items()},
                "data_source": change(self.data_source),
                "second_source": change(self.second_source) if self.second_source else None,
                BEHAVIOUR: change(self.behaviour) if self.behaviour else None,
            },
        )


def load(name_or_path: str) -> Recipe:
    """Read a shipped recipe by name or any YAML (or JSON) file by path; raises ShrinkError in one sentence."""
    path = recipe_file.find(name_or_path)
    return anchored(parse(recipe_file.read(path), str(path)), path.absolute().parent)


def anchored(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with relative local sources made absolute, starting at `folder`."""

    def anchor(source: Source) -> Source:
        scheme, _, rest = source.uri.partition(":")
        if scheme not in LOCAL:
            return source
        try:
            if "\0" in rest:
                raise ValueError(rest)
            path = Path(os.path.abspath(folder / rest))  # a link keeps its name, which may say what it is
            path.exists()
        except (OSError, ValueError):  # a name that is too long, or that has a null byte
            raise ShrinkError(f"source {SHORT.repr(source.uri)} is no path that can be; give another.") from None
        return source.model_copy(update={"uri": f"{scheme}:{path}"})

    return recipe.with_sources(anchor)


def parse(raw: Any, origin: str) -> Recipe:
    """Validate a recipe's content; raises ShrinkError naming the key, its value and the nearest valid one."""
    if not isinstance(raw, dict):
        raise ShrinkError(f"recipe '{origin}' holds no keys; {recipe_file.OTHER}")
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise ShrinkError(f"recipe '{origin}': {sentence(error)}") from None
    endless = not_finite(recipe.model_dump())
    if endless is not None:
        raise ShrinkError(f"recipe '{origin}': '{endless}' is not a finite number; give one.")
    if (truth := truth_for_number(raw, recipe.model_dump())) is not None:
        raise ShrinkError(f"recipe '{origin}': '{truth}' is true or false where a number stands; give a number.")
    if is_smoke(recipe.name) and recipe.gate != OPEN:  # a smoke walk's own recipe.json is read again
        raise ShrinkError(f"recipe '{origin}': 'name' = '{recipe.name}': only smoke walks end in {SMOKE}; change it.")
    order.check_task(recipe)
    order.check(recipe)
    fit.check(recipe)
    return recipe


def not_finite(value: Any, where: str = "") -> str | None:
    """The place of the first NaN, infinity or integer that no float can count to, stages counted from 1."""
    if isinstance(value, int | float):
        return None if abs(value) <= COUNTABLE or (isinstance(value, float) and math.isfinite(value)) else where
    parts = value.items() if isinstance(value, dict) else enumerate(value, 1) if isinstance(value, tuple) else ()
    return next((found for key, one in parts if (found := not_finite(one, f"{where}.{key}".lstrip(".")))), None)


def truth_for_number(raw: Any, read: Any, where: str = "") -> str | None:
    """The place of the first true or false in raw values that was read as a number, stages counted from 1."""
    if isinstance(raw, bool):
        return where if isinstance(read, int | float) and not isinstance(read, bool) else None
    if isinstance(raw, dict) and isinstance(read, dict):
        parts = [(key, raw[key], read[key]) for key in raw if key in read]
    elif isinstance(raw, list) and isinstance(read, tuple):
        parts = [(str(place), *pair) for place, pair in enumerate(zip(raw, read, strict=False), 1)]
    else:
        return None
    found = (truth_for_number(one, other, f"{where}.{key}".lstrip(".")) for key, one, other in parts)
    return next((place for place in found if place is not None), None)


def sentence(error: ValidationError) -> str:
    """The first validation error as one sentence: key, value, remedy. Unknown keys and kinds come first."""
    order = {"union_tag_invalid": 0, "union_tag_not_found": 0, "extra_forbidden": 1}
    first = min(error.errors(), key=lambda one: order.get(one["type"], 2))
    loc, context = first["loc"], first.get("ctx", {})
    where = " ".join(place(loc).split())[:200]
    match first["type"]:
        case "extra_forbidden":
            known = sorted(part_of(loc[:-1]).model_fields)
            return f"unknown key '{where}'; {instead(str(loc[-1]), known, 'valid here are')}"
        case "union_tag_invalid":
            known = [name.strip(" '") for name in context["expected_tags"].split(",")]
            field, tag = str(context["discriminator"]).strip("'"), context["tag"]
            return f"{where}: unknown {field} {SHORT.repr(tag):.120}; {instead(tag, known, 'known are')}"
        case "union_tag_not_found":
            field = str(context["discriminator"]).strip("'")
            known = methods().get(str(loc[2]), []) if len(loc) > 2 else list(methods())
            if loc[-1] == "target":
                known = [str(get_args(one.model_fields["method"].annotation)[0]) for one in get_args(TargetMethods)]
            return f"{where}: '{field}' is missing; give one of: {', '.join(known)}."
        case "literal_error":
            known = [name.strip(" '") for name in context["expected"].replace(" or ", ",").split(",")]
            return f"'{where}' = {SHORT.repr(first['input']):.120}; {instead(str(first['input']), known, 'it may be')}"
        case "missing":
            return f"'{where}' is missing; add it."
        case "too_short":
            held, needed = context["actual_length"], context["min_length"]
            return f"'{where}' has {held} but needs {needed} or more; add what is missing."
        case "string_pattern_mismatch" if where == "name":
            return f"'name' = {SHORT.repr(first['input']):.120}: {NAMING}; change it."
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and isinstance(first["input"], dict):  # of several keys, which it names
        return f"{where}: {said}."
    return f"'{where}' = {SHORT.repr(first['input']):.120}: {said}; change it."


def instead(wrong: str, known: list[str], otherwise: str) -> str:
    """The nearest known name as a question, else all of them."""
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"{otherwise}: {', '.join(known)}."


def place(loc: tuple[int | str, ...]) -> str:
    """A validation error's location as people count: stages from 1, with their kind."""
    if loc[:1] == ("data",) and len(loc) > 1 and loc[1] in DATA:
        loc = ("data", *loc[2:])
    if len(loc) < 2 or loc[0] != "stages":
        return ".".join(str(part) for part in loc)
    inside = [str(part) for part in loc[2:]]
    inside = inside[1:] if inside[1:2] == inside[:1] else inside  # the methods of a kind, one of which has its name
    names = [kind for kind in inside[:1] if kind in methods()]
    names += [method for method in inside[1:2] if names and method in methods()[names[0]]]
    stage = f"stage {int(loc[1]) + 1}" + (f" ({'/'.join(names)})" if names else "")
    return ": ".join(part for part in (stage, ".".join(inside[len(names) :])) if part)


def part_of(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that the keys at a location belong to."""
    if loc and loc[0] == "stages":
        inside = loc[loc.index("target") + 1 :] if "target" in loc else loc[2:]
        tags = {str(part) for part in inside}
        configs: tuple[type[BaseModel], ...] = get_args(AnyChainConfig)
        for config in configs:
            own = {
                str(get_args(config.model_fields[name].annotation)[0])
                for name in ("kind", "method")
                if name in config.model_fields
            }
            if tags and (tags <= own):
                return config
    elif loc and loc[0] in PARTS:
        return next(one for one in PARTS[str(loc[0])] if one.model_fields["task"].default == loc[1])
    elif len(loc) > 1 and loc[0] == "data" and loc[1] in DATA:
        return DATA[loc[1]]
    elif loc:
        found = Recipe.model_fields[str(loc[0])].annotation
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return Recipe


def digest_of(content: dict[str, Any]) -> str:
    """The digest of a recipe as it was written down: one of before a field was added keeps the digest it had."""
    content = copy.deepcopy(content)
    second = [content[part] for part in ("second_source", BEHAVIOUR) if content.get(part)]
    for source in (content["teacher"], content["data_source"], *second, *content.get("teachers", {}).values()):
        scheme, _, rest = source["uri"].partition(":")
        if scheme in LOCAL:
            source["uri"] = f"{scheme}:{Path(rest).name}"
        elif scheme == "models" and source.get("sha256"):
            source["uri"] = f"{scheme}:/{rest.split('/')[1]}"
    return sha256_json(content)
