"""Recipes: every shipped one loads, and what is wrong is said in one sentence with the remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import recipe
from registry.records import ShrinkError


def shipped_content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((recipe.SHIPPED / "sentiment.yaml").read_text())
    return content


@pytest.mark.parametrize("name", recipe.shipped())
def test_every_shipped_recipe_loads_and_has_a_smoke(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.name == name
    assert recipe.smoke(loaded).digest != loaded.digest
    assert recipe.load(name).digest == loaded.digest


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ShrinkError, match="did you mean 'sentiment'"):
        recipe.load("sentimnt")


def test_unknown_key_names_the_nearest() -> None:
    content = shipped_content()
    content["gate"]["retention_mni"] = 0.9
    with pytest.raises(ShrinkError, match=r"unknown key 'gate.retention_mni'; did you mean 'retention_min'"):
        recipe.parse(content, "mine.yaml")


def test_wrong_order_names_the_stage_and_what_it_lacks() -> None:
    content = shipped_content()
    content["stages"].insert(1, content["stages"].pop())
    with pytest.raises(ShrinkError, match=r"stage 2 \(quantize/int8_dynamic\) needs student as onnx"):
        recipe.parse(content, "mine.yaml")


def test_chain_without_deployable_is_refused() -> None:
    content = shipped_content()
    content["stages"] = content["stages"][:-2]
    with pytest.raises(ShrinkError, match="add kind: export"):
        recipe.parse(content, "mine.yaml")


def test_broken_yaml_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: [")
    with pytest.raises(ShrinkError, match="is not YAML"):
        recipe.load(str(tmp_path / "mine.yaml"))
