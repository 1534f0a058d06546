"""The page of architectures and stages says what preflight says, has every stage, and a cheap part of it is tried."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from benchmarks import architectures as matrix
from benchmarks import decoder_families, decoder_stages
from benchmarks.architectures_shown import ALONE, WORKS, page
from benchmarks.architectures_stages import COLUMNS, EXTRAS
from tasks import extras
from tasks.kinds import AnyChainConfig, EveryStage
from tests.tasks.encoders import TOKENIZERS
from tests.tasks.generate import decoders

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
    writing = {(str(one.stage["kind"]), str(one.stage.get("method", ""))) for one in decoder_stages.COLUMNS}
    for wanted, mine in ((shown, False), (writing, True)):
        configs = [one for one in get_args(AnyChainConfig) if (getattr(one, "tasks", ()) == ("generate",)) is mine]
        assert wanted == {(field(config, "kind"), field(config, "method")) for config in configs}
    every = (*COLUMNS, *decoder_stages.COLUMNS)
    parsed = {column.name: EveryStage.validate_python(column.stage) for column in every}
    needing = {name for name, config in parsed.items() if getattr(config, "needs", ())}
    assert needing == set(EXTRAS), "an extra has an asterisk"
    assert len(parsed) == len(every), "no two columns have one name"


@pytest.mark.parametrize("kind", ["distilbert", "albert", "mpnet", "convbert"])
def test_a_part_of_the_page_is_tried(tmp_path: Path, kind: str) -> None:
    columns = [column for column in COLUMNS if column.name in CHEAP]
    found = matrix.walk(kind, tmp_path / kind, columns, None)
    assert found.keys() == set(CHEAP)
    works = [name for name, said in found.items() if said == WORKS]
    assert len(works) == {"distilbert": 6, "albert": 6, "mpnet": 5, "convbert": 0}[kind]


def test_the_committed_page_of_decoders_is_what_preflight_says_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: True)  # as above
    said, crossed = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
    for found, named in ((said, decoders.FAMILIES), (crossed, decoders.TOKENIZERS)):
        for one in named:
            family, pieces = (one, decoders.TOKENIZERS[0]) if found is said else (decoder_families.FAMILY, one)
            sources = decoder_families.make_sources(tmp_path / one, family, pieces)
            found[one] = {column.name: decoder_families.cell(column, sources) for column in decoder_stages.COLUMNS}
    refused = {cell for row in (*said.values(), *crossed.values()) for cell in row.values()} - {WORKS, ALONE}
    for sentence in refused:
        assert re.fullmatch(r"stage \d+ \([a-z/_0-9]+\): .{15,200}(: |; |, ).{5,80}\.", sentence), sentence
    assert set(said["llama"].values()) == {WORKS} and len(said) >= 11
    written = decoder_families.PAGE.read_text(encoding="utf-8")
    assert written == decoder_families.page(said, crossed), "run python -m benchmarks.decoder_families again"


@pytest.mark.parametrize(("family", "works"), [("llama", 6), ("qwen3", 6), ("gemma2", 0)])
def test_a_part_of_the_page_of_decoders_is_tried(tmp_path: Path, family: str, works: int) -> None:
    names = ("adopt/decoder", "prune/width: ffn", "prune/width: hidden", "prune/merges", "quantize/gptq", "export/gguf")
    columns = [column for column in decoder_stages.COLUMNS if column.name in names]
    found = decoder_families.walk(family, tmp_path / family, columns)
    assert list(found.values()).count(WORKS) == works and list(found.values()).count(ALONE) == (0 if works else 4)
