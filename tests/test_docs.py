"""The documents are true: commands, recipes, benchmarks and paths that they name exist, and none is left out."""

import re
from pathlib import Path

import pytest
import typer.main

from flows import recipe_file
from flows.cli import app
from tasks.kinds import methods

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a click.Group


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert re.search(rf"`shrink {name}\b", README), f"README.md does not show `shrink {name}`"


def test_every_command_that_is_documented_exists() -> None:
    named = set(re.findall(r"`shrink ([a-z]+)", README)) | set(re.findall(r"^shrink ([a-z]+)", README, re.MULTILINE))
    assert named and named <= set(COMMANDS)


@pytest.mark.parametrize("name", recipe_file.shipped())
def test_every_recipe_is_documented(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("kind", sorted(methods()))
def test_every_stage_kind_and_method_is_documented(kind: str) -> None:
    for word in (kind, *methods()[kind]):
        assert f"`{word}`" in README, f"README.md does not explain `{word}`"


@pytest.mark.parametrize("target", sorted(re.findall(r"^\s*(make \w+)", README, re.MULTILINE)))
def test_every_make_target_that_is_documented_exists(target: str) -> None:
    assert re.search(rf"^{target.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_link_leads_somewhere() -> None:
    for document in ("README.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / document).parent.joinpath(target).exists(), f"{document} links to {target}"


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", (ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    gone = [f"{file}::{test}" for file, test in sorted(named) if f"def {test}(" not in (ROOT / file).read_text("utf-8")]
    assert len(named) > 15 and not gone, f"SECURITY.md names {gone}"


def test_the_threat_model_names_every_module_that_it_speaks_of() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    modules = set(re.findall(r"(?<![\w/])(?:flows|tasks|registry)/[\w/]+", text))
    assert not [name for name in sorted(modules) if not (ROOT / f"{name}.py").exists()]


def test_the_tree_names_every_module() -> None:
    tree = README.split("## The tree")[1]
    modules = [path for folder in ("flows", "tasks", "registry", "infra") for path in (ROOT / folder).rglob("*.py")]
    left_out = [path.stem for path in modules if path.stem != "__init__" and not re.search(rf"\b{path.stem}\b", tree)]
    assert not left_out, f"README.md's tree leaves out {left_out}"
