"""What damage and odd surroundings must not do: stop other runs, sweep another program's files, fail after the work."""

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from flows import journal as journals
from flows import reconcile
from flows.forecast.sizes import check_stages
from flows.preflight import check_folds
from flows.recipe import Recipe, load
from flows.settings import apply, settings
from flows.smoke import smoke
from infra import services
from registry.records import ShrinkError
from tasks import data, layout
from tasks.distill.relations import DistillRelationsConfig
from tasks.finetune import FinetuneConfig
from tasks.kinds import EveryStage
from tasks.quantize.int8_static import Int8StaticConfig


@pytest.mark.parametrize("text", ["", '{"run_id": "x", "sta', "[]", "{}"])
def test_a_damaged_journal_hides_only_itself(tmp_path: Path, text: str) -> None:
    whole = journals.begin(tmp_path, load("sentiment"), None)
    damaged = tmp_path / "runs" / "20260101-000000-sentiment-abcd"
    damaged.mkdir()
    (damaged / "run.json").write_text(text)
    assert [found["run_id"] for found in journals.read_all(tmp_path)] == [whole["run_id"]]


def test_a_runs_folder_of_another_program_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = [tmp_path / "runs" / "Nov23_tensorboard", tmp_path / "cache" / ".their.data"]
    ours = [tmp_path / "runs" / "20260101-000000-sentiment-abcd", tmp_path / "cache" / f".digest.{2**22 + 1}"]
    for folder in (*theirs, *ours):
        folder.mkdir(parents=True)
    monkeypatch.setattr(reconcile, "crash_flow_runs", lambda dead: None)
    reconcile.reconcile(tmp_path)
    assert [folder.exists() for folder in (*theirs, *ours)] == [True, True, False, False]


@pytest.mark.parametrize("name", ["credentials.json", "services.json"])
def test_a_damaged_file_of_the_servers_is_said_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "services.json").write_text('{"bucket": "b", "region": "r", "s3_endpoint": "", "mlflow_uri": ""}')
    (tmp_path / "credentials.json").write_text('{"access_key": "a", "secret_key": "b"}')
    (tmp_path / name).write_text('{"access')
    with pytest.raises(ShrinkError, match=rf"{name}' is damaged; .*`shrink up`"):
        services.status(tmp_path)


def test_a_home_that_cannot_be_and_a_variable_that_will_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ShrinkError, match=r"SHRINK_HOME is .* cannot be written"):
        services.up(tmp_path / "file")
    monkeypatch.setenv("SHRINK_THREADS", "many")
    with pytest.raises(ShrinkError, match="SHRINK_THREADS is 'many' but must be"):
        settings()


def test_a_smoke_fits_a_teacher_of_one_layer_and_few_rows_of_a_label() -> None:
    tried = smoke(load("sentiment"), layers=1)
    assert [stage.keep_layers for stage in tried.stages if isinstance(stage, FinetuneConfig)] == [1]
    rows = [{"label": 0}] * 2 + [{"label": 1}] * 9
    check_folds(tried, rows, ["a", "b"])
    with pytest.raises(ShrinkError, match=r"label .a. has 2 train rows but floor\.folds is 5"):
        check_folds(load("sentiment"), rows, ["a", "b"])


def test_a_second_quantization_of_the_embedding_is_refused_before_training() -> None:
    sizes = {
        "layers": 6,
        "ffn": 1536,
        "heads": 12,
        "head_size": 32,
        "positions": 512,
        "columns": 384,
        "tokenizer": "WordPiece",
    }
    model, recipe = layout.Layout(folder=Path(), **sizes), load("sentiment")
    check_stages(recipe, model, ["a", "b"])
    for second in (recipe.stages[-1], Int8StaticConfig()):
        twice = recipe.model_copy(update={"stages": (*recipe.stages, second)})
        with pytest.raises(ShrinkError, match=r"stage 8 \(quantize/int\w+\): the embedding is quantized already"):
            check_stages(twice, model, ["a", "b"])


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (
            ["prune/low_rank 384"],
            r"stage 1 \(prune/low_rank\): rank is 384 but the embedding has 384 columns",
        ),
        (
            ["prune/low_rank 96", "prune/low_rank 64"],
            r"stage 2 \(prune/low_rank\): the embedding is factorised",
        ),
        (
            ["prune/low_rank 7", "quantize/int8_dynamic"],
            r"stage 2 \(quantize/int8_dynamic\): .*int4, .* an even .* are 7:",
        ),
        (
            ["prune/low_rank 7", "distill/quantized"],
            r"stage 2 \(distill/quantized\): embedding is int4, which needs an",
        ),
    ],
)
def test_ranks_that_do_not_fit_are_refused_before_training(stages: list[str], said: str) -> None:
    sizes = {"layers": 6, "ffn": 1536, "heads": 12, "head_size": 32, "positions": 512, "columns": 384}
    model, light = layout.Layout(folder=Path(), tokenizer="WordPiece", **sizes), {"embedding": "int4"}
    found = []
    for stage in stages:
        kind, method, *rank = stage.replace("/", " ").split()
        more = {"rank": int(rank[0])} if rank else {"target": {"method": "int8_dynamic", **light}}
        found.append({"kind": kind, "method": method, **(light if kind == "quantize" else more)})
    recipe = load("sentiment")
    asked = recipe.model_copy(update={"stages": tuple(EveryStage.validate_python(one) for one in found)})
    with pytest.raises(ShrinkError, match=said):
        check_stages(asked, model, ["a", "b"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"relation_heads": 7},
            r"stage 5 \(distill/relations\): relation_heads is 7, which does not divide the 384 .* teacher's",
        ),
        ({"relation_heads": 24}, r"relation_heads is 24, which does not divide the 160 features of the student's"),
        ({"teacher_layer": 6}, r"stage 5 \(distill/relations\): teacher_layer is 6 but the teacher's last is 5: lower"),
    ],
)
def test_relations_that_cannot_be_compared_are_refused_before_training(settings: dict[str, Any], said: str) -> None:
    sizes = {
        "layers": 6,
        "ffn": 1536,
        "heads": 12,
        "head_size": 32,
        "positions": 512,
        "columns": 384,
        "tokenizer": "WordPiece",
    }
    model, recipe = layout.Layout(folder=Path(), **sizes), load("sentiment")
    cut = recipe.stages[3].model_copy(update={"heads": 5})

    def asking(**settings: Any) -> Recipe:
        taught = DistillRelationsConfig.model_validate(settings)
        return recipe.model_copy(update={"stages": (*recipe.stages[:3], cut, taught, *recipe.stages[5:])})

    check_stages(asking(teacher_layer=5), model, ["a", "b"])
    check_stages(smoke(asking(teacher_layer=5)), model, ["a", "b"])  # of whose six layers two are left
    with pytest.raises(ShrinkError, match=said):
        check_stages(asking(**settings), model, ["a", "b"])


def rows_of(folder: Path, name: str, content: str, **more: str) -> list[data.Row]:
    (folder / name).write_text(content, encoding="utf-8")
    config = data.DataConfig.model_validate({"file": name, "format": name.rpartition(".")[2], **more})
    return data.labelled_rows(folder, config)[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", json.dumps({"text": "half \ud800", "label": 1}), "Row 1 of a.jsonl has half a surrogate pair"),
        ("a.jsonl", '{"text": "fine", "label": NaN}', "Row 1 of a.jsonl has no 'label'"),
        ("a.jsonl", "[" * 100_000, "Row 1 of a.jsonl is no JSON object"),
        ("a.csv", "text;label\nfine;1\n", "a.csv has its cells between ';'"),
        ("a.csv", "text\tlabel\nfine\t1\n", r"a.csv has its cells between '\\t'"),
    ],
)
def test_odd_rows_are_refused_in_one_sentence(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(ShrinkError, match=said):
        rows_of(tmp_path, name, content)
    with pytest.raises(ShrinkError, match="and so is text_column"):
        rows_of(tmp_path, name, content, label_column="text")


def test_the_callers_own_servers_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "PREFECT_PROFILE", "AWS_PROFILE", "ALL_PROXY", "HTTPS_PROXY", "SHRINK_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    with mock.patch.dict(os.environ):  # what others of this session need comes back
        apply({"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}, services.FOREIGN)
        found = {name: value for name, value in os.environ.items() if value in {"1", "http://127.0.0.1:5000"}}
    assert {"MLFLOW_TRACKING_URI", "HTTPS_PROXY", "SHRINK_THREADS"} <= found.keys()
    assert not found.keys() & {"MLFLOW_RUN_ID", "PREFECT_PROFILE", "AWS_PROFILE", "ALL_PROXY"}
