"""The page of architectures and stages says what preflight says, has every stage, and a cheap part of it is tried."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from benchmarks import architectures as matrix
from benchmarks.architectures_shown import WORKS, page
from benchmarks.architectures_stages import COLUMNS, EXTRAS, TABLES
from tasks import extras
from tasks.kinds import AnyChainConfig, EveryStage
from tests.tasks.encoders import TOKENIZERS

CHEAP = ("finetune", "label", "prune/vocabulary", "prune/structured: layers", "prune/structured: heads", "prune/wanda")


def test_the_committed_page_is_what_preflight_says_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: True)  # the page was written where the extras are installed
    said: dict[str, dict[str, dict[str, str]]] = {}
    for kind in matrix.everything():
        said[kind] = {}
        for pieces in TOKENIZERS:
            sources = matrix.make_sources(tmp_path / kind / pieces, kind, pieces)
            columns = matrix.columns_of(kind, pieces)
            said[kind][pieces] = {one.name: matrix.refusal(one, sources) or WORKS for one in columns}
    refused = {one for found in said.values() for cells in found.values() for one in cells.values() if one != WORKS}
    for sentence in refused:  # the stage by its kind and method, what is so, and what to do
        assert re.fullmatch(r"(stage \d+ \([a-z/_0-9]+\): |model_type is ).{20,300}: .{5,80}\.", sentence), sentence
    broad = [kind for kind, one in said.items() if list(one["WordPiece"].values()).count(WORKS) >= len(COLUMNS) - 3]
    assert len(said) >= 17 and len(broad) >= 12
    written = matrix.PAGE.read_text(encoding="utf-8")
    assert written == page(said, matrix.FAMILIES, matrix.NEAR), "run python -m benchmarks.architectures again"


def field(config: Any, name: str) -> str:
    """The one value that a stage's config lets this field have, or nothing where it has no such field."""
    found = config.model_fields.get(name)
    return str(get_args(found.annotation)[0]) if found else ""


def test_every_kind_and_method_has_a_column() -> None:
    shown = {(str(column.stage["kind"]), str(column.stage.get("method", ""))) for column in COLUMNS}
    shown = {(kind, {"adopt": "encoder"}.get(kind, method)) for kind, method in shown}
    encoders = [config for config in get_args(AnyChainConfig) if getattr(config, "tasks", ()) != ("generate",)]
    assert shown == {(field(config, "kind"), field(config, "method")) for config in encoders}
    configs = {column.name: EveryStage.validate_python(column.stage) for column in COLUMNS}
    needing = {name for name, config in configs.items() if getattr(config, "needs", ())}
    assert needing == set(EXTRAS), "an extra has an asterisk"
    assert sum(map(len, TABLES.values())) == len(configs) == len(COLUMNS), "no two columns have one name"


@pytest.mark.parametrize("kind", ["distilbert", "albert", "mpnet", "convbert"])
def test_a_part_of_the_page_is_tried(tmp_path: Path, kind: str) -> None:
    columns = [column for column in COLUMNS if column.name in CHEAP]
    found = matrix.walk(kind, tmp_path / kind, columns, None)
    assert found.keys() == set(CHEAP)
    works = [name for name, said in found.items() if said == WORKS]
    assert len(works) == {"distilbert": 6, "albert": 6, "mpnet": 5, "convbert": 0}[kind]
