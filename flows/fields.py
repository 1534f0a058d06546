"""What a recipe may say: each part of it with its fields, from the configs themselves; for `shrink stages KIND`."""

from typing import Any, get_args

from pydantic import BaseModel

from flows.recipe import instead
from registry.gate import Gate
from registry.records import ShrinkError
from tasks.kinds import AnyChainConfig, DataTasks, EvaluateTasks, FloorTasks

KEYS: dict[str, tuple[type[BaseModel], ...]] = {  # a key that differs by task has one of each
    "data": get_args(DataTasks),
    "floor": get_args(FloorTasks),
    "evaluate": get_args(EvaluateTasks),
    "gate": (Gate,),
}
NAMES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "map",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def describe(wanted: str) -> list[dict[str, Any]]:
    """The parts that KIND, KIND/METHOD or KIND/TASK names, each with its fields; ShrinkError with the nearest name."""
    known = parts()
    found = [one for name, one in known.items() if wanted in (name, one["kind"])]
    if not found:
        names = sorted({*known, *(one["kind"] for one in known.values())})
        raise ShrinkError(f"stage '{wanted}' does not exist; {instead(wanted, names, 'there are')}")
    return found


def parts() -> dict[str, dict[str, Any]]:
    """All parts that `stages` may list, by KIND or KIND/METHOD, then the recipe's other keys, by KIND or KIND/TASK."""
    found = {}
    configs: tuple[type[BaseModel], ...] = get_args(AnyChainConfig)
    for config in configs:
        kind, method = (word(config, name) for name in ("kind", "method"))
        found["/".join(part for part in (kind, method) if part)] = part_of(config, str(kind), method)
    for key, others in KEYS.items():
        for config in others:
            task = word(config, "task") if len(others) > 1 else None
            found["/".join(part for part in (key, task) if part)] = part_of(config, key, None, task)
    return found


def word(config: type[BaseModel], field: str) -> str | None:
    """The one value that `kind`, `method` or `task` may have."""
    return str(get_args(config.model_fields[field].annotation)[0]) if field in config.model_fields else None


def part_of(config: type[BaseModel], kind: str, method: str | None, task: str | None = None) -> dict[str, Any]:
    """A config's purpose and fields; `default` is null, too, where `required` is true.

    `task` is of a recipe's key that has other fields for another task, else null.
    """
    schema = config.model_json_schema()
    fields = [
        {
            "name": name,
            "type": kind_of(one, schema.get("$defs", {})),
            "required": name in schema.get("required", []),
            "default": one.get("default"),
            "description": one.get("description", ""),
        }
        for name, one in schema["properties"].items()
        if "const" not in one  # kind, method and task: they are the part's name
    ]
    about = " ".join((config.__doc__ or "").strip().split("\n\n")[0].split())
    return {"kind": kind, "method": method, "task": task, "about": about, "fields": fields}


def kind_of(schema: dict[str, Any], known: dict[str, Any]) -> str:
    """A JSON schema's type in words, with its bounds: whole number ≥ 1, list: text, one of: int8, int4."""
    if "anyOf" in schema:
        return " or ".join(kind_of(one, known) for one in schema["anyOf"])
    if "oneOf" in schema:  # of a stage's fields within another's
        return " or ".join(schema["discriminator"]["mapping"])
    if "$ref" in schema:
        return kind_of(known[schema["$ref"].rpartition("/")[2]], known)
    if "enum" in schema:
        return f"one of: {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return str(schema["const"])
    bounds = ",".join(f" {sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema)
    if schema.get("type") == "array":
        inside = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list: {kind_of(inside, known)}"
    return NAMES.get(str(schema.get("type")), str(schema.get("type", "anything"))) + bounds


def text(part: dict[str, Any]) -> str:
    """A part as lines to read: its purpose, then a field a paragraph."""
    name = "/".join(piece for piece in (part["kind"], part["method"], part["task"]) if piece)
    lines = [f"{name}: {part['about']}"]
    for field in part["fields"]:
        default = "required" if field["required"] else f"default {plain(field['default'])}"
        lines += [f"  {field['name']} ({field['type']}; {default})", f"      {field['description']}"]
    return "\n".join(lines)


def plain(value: Any) -> str:
    """A default as YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"[{', '.join(map(plain, value))}]" if isinstance(value, list) else str(value)
