"""The page of architectures and stages says what the code says, and a cheap part of it is tried anew."""

from pathlib import Path

import pytest

from benchmarks import architectures as matrix
from tasks import architectures
from tasks.kinds import methods
from tests.tasks.encoders import TOKENIZERS, save_teacher

CHEAP = ("finetune", "label", "prune/vocabulary", "structured: layers", "structured: heads", "prune/wanda")


def test_the_committed_page_is_what_preflight_says_today(tmp_path: Path) -> None:
    cells, vocabularies = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
    for kind in matrix.everything():
        strange = kind in architectures.STRANGERS
        folders = {one: None if strange else save_teacher(tmp_path / kind / one, kind, one) for one in TOKENIZERS}
        first = folders["WordPiece"]
        cells[kind] = {name: matrix.refusal(kind, stage, first) or matrix.WORKS for name, stage in matrix.STAGES}
        stage = dict(matrix.STAGES)["prune/vocabulary"]
        vocabularies[kind] = {one: matrix.refusal(kind, stage, at) or matrix.WORKS for one, at in folders.items()}
    whole = [kind for kind, row in cells.items() if list(row.values()).count(matrix.WORKS) >= len(matrix.STAGES) - 1]
    assert len(cells) >= 17 and len(whole) >= 12
    written = matrix.PAGE.read_text(encoding="utf-8")
    assert written == matrix.page(cells, vocabularies), "run python -m benchmarks.architectures again"


def test_every_column_is_a_stage() -> None:
    for _, stage in matrix.STAGES:
        assert stage.get("method", "onnx") in methods()[stage["kind"]] or stage["kind"] in {"finetune", "label"}


@pytest.mark.parametrize("kind", ["distilbert", "albert", "mpnet", "convbert"])
def test_a_part_of_the_page_is_tried(tmp_path: Path, kind: str) -> None:
    columns = tuple(one for one in matrix.STAGES if one[0] in CHEAP)
    found = matrix.walk(kind, tmp_path / "stages", columns)
    assert found.keys() == set(CHEAP)
    works = [name for name, said in found.items() if said == matrix.WORKS]
    assert len(works) == {"distilbert": 6, "albert": 5, "mpnet": 5, "convbert": 0}[kind]
    assert matrix.spelled(kind, "BPE", tmp_path / "pieces") == found["prune/vocabulary"]
