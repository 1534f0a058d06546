"""A recipe's file: found by name or path and read as one plain YAML mapping, or refused in one sentence."""

import difflib
from pathlib import Path
from typing import Any

import yaml

from registry.records import ShrinkError

SHIPPED = Path(__file__).parent / "recipes"
LARGEST = 1_000_000  # bytes: a recipe is a page of text
MOST_VALUES = 10_000  # YAML's aliases can make a page mean more values than a memory holds
OTHER = "copy a shipped recipe or let `shrink init` write one."


def shipped() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name_or_path: str) -> Path:
    """The file of a shipped recipe by its name, else the one at a path; ShrinkError when there is none to read."""
    if name_or_path in shipped():
        return SHIPPED / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    try:
        if path.is_dir():
            raise ShrinkError(f"recipe '{path}' is a folder; name a .yaml file.")
        if path.exists() and not path.is_file():
            raise ShrinkError(f"recipe '{path}' is no ordinary file; name a .yaml file.")
        size = path.stat().st_size
    except OSError:
        raise ShrinkError(f"recipe '{name_or_path:.200}' does not exist; {nearest(name_or_path)}") from None
    if size > LARGEST:
        raise ShrinkError(f"recipe '{path}' has {size / 1e6:.0f} MB, which no recipe has; {OTHER}")
    return path


def nearest(wanted: str) -> str:
    """What to type instead of a recipe that does not exist."""
    files = sorted(path.name for suffix in ("yaml", "yml") for path in (Path(wanted).parent).glob(f"*.{suffix}"))
    beside = [str(Path(wanted).parent / name) for name in files]
    near = difflib.get_close_matches(wanted[:200], [*shipped(), *beside], n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"shipped are: {', '.join(shipped())}; or name a .yaml file."


def read(path: Path) -> dict[str, Any]:
    """The mapping in a file; raises ShrinkError naming file, line where there is one, and remedy."""
    try:
        raw = parsed(path.read_text(encoding="utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise ShrinkError(f"recipe '{path}' is no UTF-8 at byte {error.start}; convert it to UTF-8.") from None
    except OSError as error:
        raise ShrinkError(f"recipe '{path}' cannot be read ({error.strerror}); name another file.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ShrinkError(f"recipe '{path}' is not YAML{where}: {what}; mend that line.") from None
    except (ValueError, AttributeError, RecursionError) as error:  # a date, number or depth that cannot be
        raise ShrinkError(f"recipe '{path}' is not YAML ({error}); {OTHER}") from None
    if not isinstance(raw, dict):
        held = "nothing" if raw is None else f"a {type(raw).__name__}"
        raise ShrinkError(f"recipe '{path}' is no recipe: it holds {held} where keys such as stages belong; {OTHER}")
    check_count(raw, path)
    return raw


def parsed(text: str, path: Path) -> Any:
    """The value that a YAML text means; a key that stands twice is refused, where YAML takes the last."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if twice := repeated(node):
            raise ShrinkError(f"recipe '{path}' has the key '{twice[0]}' again in line {twice[1]}; remove one.")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def repeated(top: yaml.Node) -> tuple[str, int] | None:
    """The first key that stands twice in one mapping, and its line counted from 1."""
    pending, seen = [top], set[int]()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        return str(key.value), key.start_mark.line + 1
                    keys.add(key.value)
                pending.append(value)
    return None


def check_count(raw: dict[str, Any], path: Path) -> None:
    """ShrinkError when aliases make the values too many, or without end."""
    pending: list[Any] = [raw]
    for _ in range(MOST_VALUES):
        if not pending:
            return
        value = pending.pop()
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    raise ShrinkError(f"recipe '{path}' holds more than {MOST_VALUES} values, which no recipe does; {OTHER}")
