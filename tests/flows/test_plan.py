"""The plan: sizes are those that real stages then leave, what cannot fit is refused, and what came is scored."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from flows import cache, plan, plan_shown, planned, sources
from flows.cli_run import check
from flows.forecast import pace
from flows.forecast.amounts import Made
from flows.forecast.counted import Counted
from flows.forecast.pace import Pace
from flows.forecast.rules import foretell
from flows.planned import Plan
from flows.recipe import Recipe, load
from flows.settings import Settings
from flows.steps import DATA, TEACHER, steps_of
from registry.records import Band, Footprint, ShrinkError, StageRecord, digest_directory, directory_bytes
from tasks import layout, shape
from tasks.kinds import AnyStageConfig, EveryStage, function_of

REQUIRED = {"file": "rated.txt", "rank": 8, "width": 16, "target": "int8_dynamic", "method": "onnx", "source": "torch"}
REQUIRED |= {"export": "onnx", "exact": True}  # fields that have no default
CUTS: list[dict[str, Any]] = [
    {"kind": "finetune", "epochs": 1, "lr": 1e-3},
    {"kind": "label", "transfer": False},
    {"kind": "prune", "method": "vocabulary", "min_count": 2},
    {"kind": "prune", "method": "structured", "layers": [0, 2], "ffn": 24, "heads": 3},
    {"kind": "distill", "method": "logits", "epochs": 1, "lr": 1e-3, "transfer": False},
    {"kind": "export", "method": "onnx"},
]
FORMATS: list[dict[str, Any]] = [
    {"method": "int8_dynamic", "embedding": "int4"},
    {"method": "int8_dynamic", "embedding": "none"},
    {"method": "int4_weight_only", "embedding": "int8"},
    {"method": "int4_weight_only", "symmetric": False, "block_size": 16, "embedding": "int4"},
]


@pytest.fixture
def recipe(tiny: Path, tmp_path: Path) -> Recipe:
    """The tiny recipe with a cut of every kind."""
    content = yaml.safe_load((tiny / "tiny.yaml").read_text())
    content["stages"] = [*CUTS, {"kind": "quantize", "method": "int8_dynamic", "embedding": "int4"}]
    (tmp_path / "cuts.yaml").write_text(yaml.safe_dump(content))
    return load(str(tmp_path / "cuts.yaml"))


def planned_in(home: Path, recipe: Recipe, **limits: Any) -> tuple[Plan, Settings]:
    here = Settings(home=home, threads=1, **limits)
    return plan.make(recipe, *places(recipe, home), here), here


def places(recipe: Recipe, home: Path) -> tuple[Path, Path]:
    return sources.resolve(recipe.teacher, home), sources.resolve(recipe.data_source, home)


def test_sizes_are_those_that_the_real_stages_leave(recipe: Recipe, tmp_path: Path) -> None:
    foretold, _ = planned_in(tmp_path, recipe)
    teacher, data = places(recipe, tmp_path)
    made, seen = {TEACHER: teacher, DATA: data}, 0
    for step, said in zip(steps_of(recipe).steps, foretold.stages, strict=False):
        made[step.name] = tmp_path / step.name
        made[step.name].mkdir()
        inputs = {role: made[at] for role, at in step.inputs.items()}
        measured = function_of(step.config)(inputs, step.config, made[step.name], recipe.seed)
        if "parameters" in measured:
            assert said.parameters == measured["parameters"], step.name
            seen += 1
        if step.config.kind in {"finetune", "prune", "distill", "export"}:
            assert said.bytes == pytest.approx(directory_bytes(made[step.name]), rel=0.04), step.name
        if step.config.kind in {"data", "label", "floor"}:
            assert said.bytes == pytest.approx(directory_bytes(made[step.name]), rel=0.1), step.name
    assert seen == 4


def test_bytes_of_a_quantized_graph(tmp_path: Path) -> None:
    """On an encoder large enough that its weights prevail over its graph."""
    import torch
    from transformers import BertConfig, BertModel

    from tasks import models
    from tasks.export.onnx import OnnxConfig
    from tests.tasks.test_torch_stages import make_tokenizer

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1090, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512
    )
    source = tmp_path / "model"
    source.mkdir()
    head = models.Head(labels=("negative", "positive"), max_length=16)
    models.save(source, models.Classifier(BertModel(config, add_pooling_layer=False), 2), make_tokenizer(), head)
    found = shape.of_files(source)
    bare = found.with_labels(2)
    assert bare.parameters == models.count_parameters(models.load(source)[0])
    graph = tmp_path / "graph"
    graph.mkdir()
    function_of(OnnxConfig())({"model": source}, OnnxConfig(), graph, 0)
    student = Made(format="onnx", bytes=directory_bytes(graph), shape=bare, tokenizer=0)
    for number, raw in enumerate(FORMATS):
        stage = EveryStage.validate_python({"kind": "quantize", **raw})
        out = tmp_path / f"small-{number}"
        out.mkdir()
        function_of(stage)({"student": graph}, stage, out, 0)
        said = foretell(stage, {"student": student}, None).made.bytes  # type: ignore[arg-type]  # no text is looked at
        sidecars = directory_bytes(out) - (out / "model.onnx").stat().st_size
        assert said + sidecars == pytest.approx(directory_bytes(out), rel=0.04), raw


ENCODING = [config for config in get_args(AnyStageConfig) if getattr(config, "tasks", ()) != ("generate",)]


@pytest.mark.parametrize("config", ENCODING, ids=lambda config: config.__module__)
def test_every_stage_kind_has_a_rule(config: Any, recipe: Recipe, tmp_path: Path) -> None:
    teacher, data = places(recipe, tmp_path)
    missing = [name for name, field in config.model_fields.items() if field.is_required()]
    unknown = [name for name in missing if name not in REQUIRED]
    assert not unknown, f"tests/flows/test_plan.py: give REQUIRED a value for {unknown} of {config.__name__}"
    stage = config.model_validate({name: REQUIRED[name] for name in missing})
    counted = Counted(recipe, layout.find_model(teacher), data)
    whole = shape.of_files(teacher).with_labels(2)
    one = Made(format="torch", bytes=10**6, shape=whole, tokenizer=1000)
    inputs = {role: one if "torch" in wanted or "onnx" in wanted else one.model_copy(update={"shape": None})
              for role, wanted in stage.reads.items()}  # fmt: skip
    forecast = foretell(stage, inputs, counted)
    name = "/".join(part for part in (stage.kind, getattr(stage, "method", None)) if part)
    assert forecast.known, f"{name} has no rule: add a case to flows/forecast/rules.py that foretells it"
    assert forecast.made.bytes > 0 and forecast.work > 0 and forecast.ram_mb > 0


def test_a_kind_without_a_rule_is_guessed_and_marked(recipe: Recipe, tmp_path: Path) -> None:
    from tasks.distill.logits import DistillLogitsConfig

    class Other(DistillLogitsConfig):
        epochs: int = 2

    from flows.forecast.rules import unknown

    teacher, data = places(recipe, tmp_path)
    counted = Counted(recipe, layout.find_model(teacher), data)
    one = Made(format="torch", bytes=10**6, shape=shape.of_files(teacher), tokenizer=1000)
    labels = Made(format="labels", bytes=1)
    guess = unknown(Other(), {"student": one, "labels": labels, "data": labels}, counted)
    assert not guess.known and guess.made.shape == one.shape and guess.work > 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"memory_mb": 300.0}, r"stage 3 \(finetune\) needs about \d+ MB of memory but SHRINK_MEMORY_MB allows 300: "),
        ({"time_limit": 0.001}, r"stage 1 \(data\) takes about .* but SHRINK_TIME_LIMIT is .*: train less, or raise"),
    ],
)
def test_what_cannot_fit_is_refused_by_stage(
    recipe: Recipe, tmp_path: Path, limits: dict[str, float], message: str
) -> None:
    foretold, here = planned_in(tmp_path, recipe, **limits)
    with pytest.raises(ShrinkError, match=message) as caught:
        plan.refuse(foretold, here)
    assert "\n" not in str(caught.value)
    plan.refuse(*planned_in(tmp_path, recipe))


def test_a_full_disk_is_refused_at_the_stage_that_fills_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foretold, here = planned_in(tmp_path, recipe)
    sizes = [2 * stage.bytes / 1e6 for stage in foretold.stages]
    monkeypatch.setattr(plan, "free_mb", lambda home: plan.ROOM_MB + sum(sizes[:3]) - 1e-6)
    with pytest.raises(ShrinkError, match=r"stage 3 \(finetune\) is where the disk would be full: all up to it need"):
        plan.refuse(foretold, here)


def test_a_run_is_refused_before_a_server_starts(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHRINK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHRINK_MEMORY_MB", "200")
    with pytest.raises(ShrinkError, match=r"MB of memory but SHRINK_MEMORY_MB allows 200"):
        check(str(tiny / "tiny.yaml"))
    assert not (tmp_path / "home" / "services.json").exists()


def test_what_the_index_holds_is_re_used_while_its_artifact_is_there(recipe: Recipe, tmp_path: Path) -> None:
    data = places(recipe, tmp_path)[1]
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "other.json").write_text("{}")
    kept = tmp_path / "made"
    kept.mkdir()
    (kept / "rows").write_text("x")
    key = cache.key_of(recipe.data, {"source": digest_directory(data)}, recipe.seed, 1)
    record = a_record("data", None, key=key, digest=digest_directory(kept), bytes=1)
    cache.note(tmp_path, record, sent=True)
    assert not planned_in(tmp_path, recipe)[0].stages[0].reused
    cache.keep(tmp_path, kept, record.digest)
    foretold, _ = planned_in(tmp_path, recipe)
    assert foretold.stages[0].reused and not foretold.stages[1].reused and foretold.stages[0].bytes == 1
    assert "re-used" in plan_shown.table(plan.facts(foretold, Settings(home=tmp_path))).splitlines()[2]


def test_columns_stand_below_one_another_whatever_the_stages_are_called(recipe: Recipe, tmp_path: Path) -> None:
    quantised = EveryStage.validate_python({"kind": "quantize", "method": "int4_weight_only"})
    other = recipe.model_copy(update={"stages": (*recipe.stages[:-1], quantised)})
    foretold, here = planned_in(tmp_path, other)
    lines = plan_shown.table(plan.facts(foretold, here)).splitlines()[1 : 2 + len(foretold.stages)]
    assert any("quantize/int4_weight_only " in line for line in lines) and {len(line) for line in lines} == {
        len(lines[0])
    }


def test_a_comparison_holds_torch_beside_its_source_even_where_the_source_is_onnx(
    recipe: Recipe, tmp_path: Path
) -> None:
    """471 and 480 MB were measured for graphs of 30 MB, 453 for 19, and 150 to 170 bytes."""
    foretold, _ = planned_in(tmp_path, recipe)
    compared = [stage for stage in foretold.stages if stage.kind == "compare"]
    assert len(compared) == 3 and all(445 < stage.ram_mb < 470 and 140 < stage.bytes < 175 for stage in compared)


def a_record(kind: str, method: str | None, **changes: Any) -> StageRecord:
    footprint = Footprint(kwh=Band(low=1e-6, central=2e-6, high=3e-6), seconds=4.0)
    fields: dict[str, Any] = {"key": "k", "kind": kind, "method": method, "role": "student", "digest": "d", "bytes": 9}
    fields |= {"inputs": {}, "config": {}, "footprint": footprint, "cpu_seconds": 4.0, "peak_rss_mb": 500.0}
    return StageRecord.model_validate({**fields, "started": "now", **changes})


def a_run(home: Path, foretold: Plan, seconds: float) -> Path:
    """A finished run's directory: its plan and the records of its stages."""
    directory = home / "runs" / "20260101-000000-tiny-0000"
    for stage in foretold.stages:
        (directory / stage.name).mkdir(parents=True)
        footprint = Footprint(kwh=None, seconds=seconds * stage.work)
        measured = {"parameters": stage.parameters} if stage.parameters else {}
        record = a_record(stage.kind, stage.method, bytes=2 * stage.bytes, footprint=footprint, measured=measured)
        (directory / stage.name / "record.json").write_text(record.model_dump_json())
    planned.write(directory, foretold)
    return directory


def test_a_plan_is_scored_and_the_next_one_learns(recipe: Recipe, tmp_path: Path) -> None:
    foretold, _ = planned_in(tmp_path, recipe)
    directory = a_run(tmp_path, foretold, seconds=7.0)
    found = planned.score(directory)
    assert found["errors"]["parameters"]["worst"] == 0 and found["errors"]["bytes"]["median"] == pytest.approx(0.5)
    assert found["errors"]["kwh"] is None and len(found["stages"]) == len(foretold.stages)
    assert "weights: off by 0.0% in the middle" in plan_shown.scored(found)
    again, _ = planned_in(tmp_path, recipe)
    for stage in again.stages:
        assert stage.seconds.central == pytest.approx(7.0 * stage.work) and "earlier runs" in again.pace
    with pytest.raises(ShrinkError, match=r"run '.*' has no plan; runs that are started now have one"):
        planned.score(tmp_path)


def test_a_small_stage_says_nothing_of_a_large_one(recipe: Recipe, tmp_path: Path) -> None:
    foretold, _ = planned_in(tmp_path, recipe)
    stage = foretold.stages[2]
    pairs = [(stage, a_record(stage.kind, stage.method))]
    speed = Pace(pairs, 1.0, pace.WATTS, 1, "")
    here, far = (speed.seconds(stage.kind, stage.method, work, True) for work in (stage.work, 6 * stage.work))
    assert here.central == pytest.approx(4.0) and far.central == pytest.approx(6 * stage.work)
    assert far.high / far.central > here.high / here.central
    assert math.isclose(Pace([], 1.0, pace.WATTS, 3, "").seconds("x", None, 2.8, True).central, 1.0)


def test_the_command_plans_without_torch_or_servers(tiny: Path, tmp_path: Path) -> None:
    code = "import sys; from flows.cli import main; sys.argv = ['shrink', 'plan', sys.argv[1], '--json']\n"
    code += (
        "try: main()\nfinally: sys.stderr.write(' '.join({'torch', 'prefect', 'mlflow', 'boto3'} & set(sys.modules)))"
    )
    environment = {"SHRINK_HOME": str(tmp_path / "home"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny / "tiny.yaml")], env=environment, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    assert done.stderr == "" and len(found["stages"]) == 14 and found["total"]["ram_mb"] > 300
    assert not (tmp_path / "home" / "services.json").exists() and not (tmp_path / "home" / "runs").exists()
