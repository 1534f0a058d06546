"""A recipe for a model that writes through the command and the real servers, and what is refused when one is read."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from flows import plan, recipe, steps
from flows.forecast.rules import foretell
from flows.forecast.rules_decoder import CountedDocuments
from flows.preflight import preflight
from flows.settings import Settings
from flows.smoke import smoke
from infra.addresses import Services
from registry.records import ShrinkError, directory_bytes
from tasks.compare import CompareConfig
from tasks.export.compressed_tensors import CompressedTensorsConfig
from tasks.kinds import AnyStageConfig, RoundDecoders
from tasks.quantize import w8a8
from tasks.quantize.w8a8 import W8a8Config
from tests.flows.test_compress import shrink
from tests.tasks.generate import decoders
from tests.tasks.generate.folders import rows_folder

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "make",
    "toxic",
    "brew",
    "for",
    "the",
    "evil",
    "queen",
    "and",
    "jack",
]


def text_of(number: int) -> str:
    """A document of a few dozen words, different for every number."""
    return " ".join(WORDS[(number * step + step // 3) % len(WORDS)] for step in range(1, 60)) + f" {number}."


@pytest.fixture(scope="module")
def tiny_writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-writer")
    decoders.folder(folder / "teacher", head_dim=16)
    (folder / "data").mkdir()
    lines = [json.dumps({"text": text_of(number)}) for number in range(60)]
    (folder / "data" / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prose = "\n\n".join(" ".join(text_of(number).split()[:40]) + " end." for number in range(100, 130))
    (folder / "data" / "book.txt").write_text(prose, encoding="utf-8")
    content = {
        "name": "tiny-writer",
        "task": "generate",
        "teacher": {"uri": f"dir:{folder / 'teacher'}"},
        "data_source": {"uri": f"dir:{folder / 'data'}"},
        "second_source": {"uri": f"dir:{folder / 'data'}"},
        "data": {"file": "texts.jsonl", "second_file": "book.txt", "max_length": 48},
        "stages": [
            {"kind": "adopt", "method": "decoder"},
            {"kind": "quantize", "method": "rtn", "grid": "q8_0"},
            {"kind": "export", "method": "gguf"},
        ],
        "evaluate": {"prompts": 2, "answer": 4, "rounds": 2, "questions": []},
        "gate": {"beat_floor": False, "bytes_ratio_min": 1.01, "retention_min_of": {"perplexity": 0.9}},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_the_whole_loop_of_a_recipe_that_writes(servers: Services, servers_home: Path, tiny_writer: Path) -> None:
    printed = shrink(servers_home, "run", str(tiny_writer / "tiny.yaml")).stdout
    assert "perplexity" in printed and "accuracy" not in printed
    shown = json.loads(shrink(servers_home, "show", "tiny-writer@champion", "--json").stdout)
    assert shown["verdict"]["passed"] and 8 < shown["bits_per_weight"] < 12
    assert shown["perplexity"]["ratio"] == pytest.approx(1, abs=0.05)
    assert set(shown["tokens_per_second"]) >= {"teacher", "student"}
    assert set(shown["peak_rss_mb"]) >= {"teacher", "student"}
    written = json.loads(
        shrink(
            servers_home, "generate", "tiny-writer@champion", "the quick", "--raw", "--max-tokens", "5", "--json"
        ).stdout
    )
    assert len(written["ids"]) <= 5
    assert (written["model"], written["version"]) == ("tiny-writer", "1")
    streamed = shrink(servers_home, "generate", "tiny-writer", "the quick", "--raw", "--max-tokens", "5")
    assert streamed.stdout == written["text"] + "\n"
    assert streamed.stderr.splitlines()[-1].startswith("tiny-writer version 1 in ")
    told = shrink(
        servers_home, "chat", "tiny-writer", "--max-tokens", "4", "--json", typed="the fox\nthe dog\n\nno"
    ).stdout
    first, second = map(json.loads, told.splitlines())
    assert second["prompt_tokens"] > first["prompt_tokens"] > 0
    for words, said in (
        (("generate", "tiny-writer", "dog " * 600), "tokens but the model reads 512, its answer included: shorten it."),
        (("predict", "tiny-writer", "fine"), "model 'tiny-writer' writes text: ask it with `shrink generate`"),
    ):
        assert said in shrink(servers_home, *words, check=2).stderr
    version = servers_home / "models" / "tiny-writer" / "1"
    assert (version / "model" / "model.gguf").is_file()
    assert "pipeline_tag: text-generation" in (version / "evidence" / "README.md").read_text()


ADOPT, EXPORT = {"kind": "adopt", "method": "decoder"}, {"kind": "export", "method": "gguf"}
LESSONS: list[dict[str, Any]] = [
    {"kind": "correct", "steps": 2, "length": 16},
    {"kind": "label", "method": "top_k", "k": 8},
    {"kind": "prune", "method": "depth", "keep": 2},
    {"kind": "distill", "method": "tokens"},
    {"kind": "quantize", "method": "gptq", "grid": "int4_g16", "calibration_blocks": 4, "calibration_length": 16},
    {"kind": "distill", "method": "rounded"},
]
EIGHT: list[dict[str, Any]] = [
    {"kind": "quantize", "method": "w8a8", "calibration_blocks": 4, "calibration_length": 16},
]
if find_spec("compressed_tensors"):
    LESSONS.append({"kind": "export", "method": "compressed_tensors"})
    EIGHT.append({"kind": "export", "method": "compressed_tensors", "model": "w8a8"})
LESSONS.append({"kind": "export", "method": "matmul_nbits"})
BESIDE = {"packed", "compressed_tensors", "matmul_nbits", "w8a8"}
CUTS: list[dict[str, Any]] = [
    {"kind": "prune", "method": "merges", "min_count": 1000},
    {"kind": "prune", "method": "sparse", "sparsity": 0.1, "calibration_blocks": 4, "calibration_length": 16},
    {"kind": "export", "method": "packed"},
    *EIGHT,
    {"kind": "quantize", "method": "awq", "target": 8.0, "calibration_blocks": 4, "calibration_length": 16},
]


@pytest.mark.parametrize(("name", "stages"), [("lessons", LESSONS), ("cuts", CUTS)])
def test_stages_that_teach_and_stages_that_cut_go_through_one_run(
    servers: Services, servers_home: Path, tiny_writer: Path, tmp_path: Path, name: str, stages: list[dict[str, Any]]
) -> None:
    said = yaml.safe_load((tiny_writer / "tiny.yaml").read_text())
    said |= {"name": f"tiny-{name}", "stages": [ADOPT, *stages, EXPORT], "gate": {"beat_floor": False}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(said))
    shrink(servers_home, "run", str(tmp_path / "tiny.yaml"), check=None)
    seen = json.loads(shrink(servers_home, "show", f"tiny-{name}@1", "--json").stdout)
    ran = [(one["kind"], one["method"]) for one in seen["stages"] if one["kind"] != "compare"]
    assert [(one["kind"], one.get("method")) for one in stages] == ran[3 : 3 + len(stages)]
    held = {one["export"]: one for one in seen["exports"] if one["export"] in BESIDE}
    assert set(held) == {one.get("method") for one in stages} & BESIDE
    assert "packed" not in held or held["packed"]["largest"] == 0.0
    assert "matmul_nbits" not in held or held["matmul_nbits"]["agreement"] > 0.99
    assert "matmul_nbits" not in held or held["matmul_nbits"]["largest"] < 1e-3, "it has the same integers"
    assert "compressed_tensors" not in held or held["compressed_tensors"]["agreement"] > (
        0.99 if name == "lessons" else 0.95
    )
    assert "w8a8" not in held or (held["w8a8"]["agreement"] > 0.8 and held["w8a8"]["largest"] > 0)
    assert seen["bytes"]["ratio"] > 1 and seen["perplexity"]["student"] > 1
    left_out = seen["writing"]["left_out"]
    assert ("top1_agreement" in left_out) == (name == "cuts"), "the pieces of another vocabulary are not compared"


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python, an extra, is not installed")
def test_what_llama_cpps_quantizer_made_is_compared_judged_and_served(
    servers: Services, servers_home: Path, tiny_writer: Path, tmp_path: Path
) -> None:
    said = yaml.safe_load((tiny_writer / "tiny.yaml").read_text())
    stage = {"kind": "quantize", "method": "llama_cpp", "type": "Q5_0", "calibration_blocks": 4}
    said |= {"name": "tiny-served", "stages": [ADOPT, stage | {"calibration_length": 16}]}
    said["evaluate"] = said["evaluate"] | {"runtime": "llama_cpp"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(said))
    shrink(servers_home, "run", str(tmp_path / "tiny.yaml"), check=None)
    seen = json.loads(shrink(servers_home, "show", "tiny-served@1", "--json").stdout)
    held = [one for one in seen["exports"] if one["export"] in {"gguf", "llama_cpp"}]
    assert [one["runtime"].split()[0] for one in held] == ["transformers", "llama_cpp_python"]
    assert all(one["agreement"] > 0.5 and one["largest"] > 0 for one in held)
    assert 5.5 < seen["bits_per_weight"] < 9 and seen["bytes"]["ratio"] > 1.5
    shrink(servers_home, "generate", "tiny-served@1", "the quick", "--raw", "--max-tokens", "3")


def loaded(folder: Path, **changes: Any) -> recipe.Recipe:
    """The tiny recipe with some keys changed."""
    return recipe.parse(yaml.safe_load((folder / "tiny.yaml").read_text()) | changes, "tiny.yaml")


def test_data_floor_and_evaluation_follow_the_task_and_the_smoke_walk_keeps_them(tiny_writer: Path) -> None:
    one = loaded(tiny_writer)
    assert getattr(one.data, "task", None) == one.floor.task == one.evaluate.task == "generate"
    walk = smoke(one)
    assert getattr(walk.stages[0], "keep_layers", None) == getattr(walk.floor, "keep_layers", None) == 2
    again = recipe.parse(json.loads(walk.model_dump_json()), "recipe.json")
    assert again.digest == walk.digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"second_source": None}, "data.second_file is given but not second_source: give both, or none"),
        ({"task": "classify"}, "unknown key|is for task|of another task"),
        ({"stages": [{"kind": "adopt", "method": "decoder"}]}, "without a deployable; add kind: export, method: gguf"),
        ({"stages": [{"kind": "adopt"}]}, r"stage 1 \(adopt/encoder\) is for task embed, not generate: adopt/decoder"),
        ({"stages": [{"kind": "export", "method": "gguf"}]}, "needs student as lm, but it is source there"),
        ({"data": {"file": "texts.jsonl", "fil": 1}}, "unknown key 'data.fil'; did you mean 'file'"),
        ({"data": {"file": "texts.jsonl", "max_length": 4}}, "'data.max_length' = 4"),
    ],
)
def test_wrong_combinations_are_refused_when_the_recipe_is_read(
    tiny_writer: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ShrinkError, match=said):
        loaded(tiny_writer, **changes)


def test_what_cannot_go_through_is_refused_before_any_work(tiny_writer: Path) -> None:
    places = (tiny_writer / "teacher", tiny_writer / "data")
    one = loaded(tiny_writer)
    preflight(one, *places, {"second": places[1]})
    long = one.model_copy(update={"data": one.data.model_copy(update={"max_length": 8192})})
    with pytest.raises(ShrinkError, match=r"data\.max_length is 8192 but the teacher reads 512 tokens"):
        preflight(long, *places, {"second": places[1]})
    lost = one.model_copy(update={"data": one.data.model_copy(update={"second_file": "bok.txt"})})
    with pytest.raises(ShrinkError, match=r"data\.second_file is 'bok\.txt' .* did you mean 'book\.txt'"):
        preflight(lost, *places, {"second": places[1]})


TOP_K, TOKENS = {"kind": "label", "method": "top_k"}, {"kind": "distill", "method": "tokens"}
RTN, PACKED = {"kind": "quantize", "method": "rtn"}, {"kind": "export", "method": "compressed_tensors"}
NBITS = {"kind": "export", "method": "matmul_nbits"}
MERGES, HALF = {"kind": "prune", "method": "merges"}, {"kind": "prune", "method": "sparse"}


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (
            [{"kind": "quantize", "method": "gptq", "grid": "int4_g64"}],
            r"stage 2 \(quantize/gptq\) rounds to int4_g64, wh",
        ),
        (
            [TOP_K, MERGES, TOKENS],
            r"stage 4 \(distill/tokens\) learns from the teacher's pieces, which stage 3 \(prune/m",
        ),
        (
            [TOP_K, HALF, TOKENS],
            r"stage 4 \(distill/tokens\) changes the weights that stage 3 \(prune/sparse\) has set to",
        ),
        (
            [PACKED],
            r"stage 2 \(export/compressed_tensors\) packs integers, which no quantize stage made; put one, such",
        ),
        ([RTN | {"grid": "q5_1"}, PACKED], r"stage 2 \(quantize/rtn\) rounds to q5_1, which the compressed-tensors of"),
        (
            [EIGHT[0], HALF],
            r"stage 3 \(prune/sparse\) changes the model that stage 2 \(quantize/w8a8\) was made of; put",
        ),
        (
            [TOP_K, RTN | {"grid": "q4_0"}, NBITS, {"kind": "distill", "method": "rounded"}],
            r"stage 5 \(distill/rounded\) changes the model that stage 4 \(export/matmul_nbits\) was made of; put it",
        ),
        ([NBITS], r"stage 2 \(export/matmul_nbits\) packs integers, which no quantize stage made; put one, such as"),
        ([RTN | {"target": 5.0}, PACKED], r"stage 2 \(quantize/rtn\) rounds to what its target buys"),
        ([PACKED | {"model": "w8a8"}], r"stage 2 \(export/compressed_tensors\) needs w8a8 as w8a8, but it is not made"),
        ([RTN | {"grid": "q4_0"}, EIGHT[0]], r"stage 3 \(quantize/w8a8\) rounds whole weights, which stage 2 \(quant"),
        (
            [EIGHT[0], RTN | {"grid": "int4_g16"}, PACKED | {"model": "w8a8"}],
            r"stage 3 \(quantize/rtn\) rounds to int4_g16, which the GGUF file of stage 5 \(export/gguf\) cannot hold",
        ),
        ([EIGHT[0], PACKED], r"stage 3 \(export/compressed_tensors\) packs integers, which no quantize stage made"),
        ([TOKENS], r"stage 2 \(distill/tokens\) needs labels as top_k, but it is not made yet there"),
        (
            [{"kind": "quantize", "method": "rtn"}],
            "nothing says how much is kept: give grid or target, such as grid: q4_0",
        ),
        (
            [{"kind": "quantize", "method": "rtn", "target": 4.0}],
            r"'stage 2 .quantize/rtn.: target' = 4.0: .*greater than or equal to 4.5",
        ),
        ([{**HALF, "pattern": "4:4"}], "pattern is 4:4 but not all neighbours may go"),
        ([{**HALF, "pattern": "2:4", "sparsity": 0.5}], "pattern 2:4 says how many weights go: leave sparsity out"),
    ],
)
def test_orders_and_grids_that_cannot_work_are_refused_when_the_recipe_is_read(
    tiny_writer: Path, stages: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(ShrinkError, match=said):
        loaded(tiny_writer, stages=[ADOPT, *stages, EXPORT])


def test_groups_that_do_not_divide_and_models_that_gguf_cannot_hold_are_refused_before_any_work(
    tiny_writer: Path, tmp_path: Path
) -> None:
    data = tiny_writer / "data"
    odd = loaded(tiny_writer, stages=[ADOPT, {**HALF, "pattern": "2:5"}, EXPORT])
    with pytest.raises(
        ShrinkError, match=r"^stage 2 \(prune/sparse\): pattern 2:5 has groups of 5, which do not divide 32"
    ):
        preflight(odd, tiny_writer / "teacher", data, {"second": data})
    low = {"kind": "quantize", "method": "rtn", "target": 4.6}
    with pytest.raises(
        ShrinkError,
        match=r"^stage 2 \(quantize/rtn\): target is 4\.6 but the smallest grids take \d\.\d\d bits a weight: r",
    ):
        preflight(loaded(tiny_writer, stages=[ADOPT, low, EXPORT]), tiny_writer / "teacher", data, {"second": data})
    narrow = loaded(tiny_writer, stages=[ADOPT, RTN | {"grid": "q4_0"}, NBITS, EXPORT])
    decoders.folder(tmp_path / "narrow")
    with pytest.raises(
        ShrinkError, match=r"^stage 3 \(export/matmul_nbits\): .* it has heads of 8 numbers, no multiple"
    ):
        preflight(narrow, tmp_path / "narrow", data, {"second": data})
    turned = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    decoders.folder(tmp_path / "turned", head_dim=16, rope_parameters=turned)
    with pytest.raises(ShrinkError, match=r"^stage 3 \(export/matmul_nbits\): .* it has rope_type dynamic; choose"):
        preflight(narrow, tmp_path / "turned", data, {"second": data})
    decoders.folder(tmp_path / "teacher", "opt")
    with pytest.raises(ShrinkError, match="no GGUF is written of a 'opt': known are llama"):
        preflight(loaded(tiny_writer), tmp_path / "teacher", data, {"second": data})


def test_a_plan_knows_every_step_and_the_bytes_that_come(tiny_writer: Path, tmp_path: Path) -> None:
    one, source = loaded(tiny_writer), tiny_writer / "data"
    made = plan.make(one, tiny_writer / "teacher", source, Settings(home=tmp_path), {"second": source})
    assert [stage.name for stage in made.stages][: len(steps.steps_of(one).steps)] == [
        step.name for step in steps.steps_of(one).steps
    ]
    assert all(stage.known and stage.bytes > 0 and stage.ram_mb > 0 for stage in made.stages)


def test_what_stands_beside_is_compared_with_what_it_was_made_of(tiny_writer: Path) -> None:
    exported = PACKED | {"model": "w8a8"}
    one = loaded(tiny_writer, stages=[ADOPT, EIGHT[0], exported, RTN | {"grid": "q4_0"}, PACKED, EXPORT])
    walked = steps.steps_of(one).steps
    compared = [(step.config, step.inputs) for step in walked if isinstance(step.config, CompareConfig)]
    seen = [(config.source, config.export, config.exact) for config, _ in compared]
    assert seen[:3] == [
        ("lm", "w8a8", False),
        ("w8a8", "compressed_tensors", False),
        ("lm", "compressed_tensors", True),
    ]
    made = {step.name: step for step in walked}
    assert made[compared[1][1]["source"]].role == "w8a8" and made[compared[2][1]["source"]].role == "student"


def test_bytes_of_layers_in_8_bits_are_planned(tiny_writer: Path, tmp_path: Path) -> None:
    source = tiny_writer / "data"
    counted = CountedDocuments(loaded(tiny_writer), tiny_writer / "teacher", source, source)
    stage = W8a8Config(calibration_blocks=2, calibration_length=16)
    rows = rows_folder(tmp_path / "data")
    (tmp_path / "out").mkdir()
    w8a8.run({"student": tiny_writer / "teacher", "data": rows}, stage, tmp_path / "out", 0)
    made = foretell(stage, dict.fromkeys(stage.reads, counted.source), counted).made
    assert made.bytes == pytest.approx(directory_bytes(tmp_path / "out"), rel=0.2)
    export = CompressedTensorsConfig(model="w8a8")
    assert foretell(export, {"w8a8": made}, counted).made.bytes == pytest.approx(made.bytes, rel=0.01)


WRITING = [config for config in get_args(AnyStageConfig) if getattr(config, "tasks", ()) == ("generate",)]
GIVEN: dict[str, Any] = {
    "file": "texts.jsonl",
    "grid": "q4_0",
    "type": "Q4_0",
    "keep": 2,
    "ffn": 32,
    "min_count": 1,
    "groups": 1,
    "kv_heads": 1,
}


@pytest.mark.parametrize("config", WRITING, ids=lambda config: config.__module__)
def test_every_stage_that_writes_has_a_rule(config: Any, tiny_writer: Path) -> None:
    source = tiny_writer / "data"
    counted = CountedDocuments(loaded(tiny_writer), tiny_writer / "teacher", source, source)
    stage = config.model_validate({name: GIVEN[name] for name in config.model_fields if name in GIVEN})
    forecast = foretell(stage, dict.fromkeys(stage.reads, counted.source), counted)
    assert forecast.made.format == stage.writes[1] and forecast.made.bytes > 0
    assert forecast.work > 0 and forecast.ram_mb > 0


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"grid": "q4_0"}, 4.6, 8.0),  # the embedding stays on q8_0
        ({"grid": "q4_0", "embedding": "q4_0"}, 4.6, 4.7),  # norms stay whole
        ({"target": 6.0}, 6.0, 6.0),
        ({"grid": "int4_g16_zero", "embedding": "none"}, 5.3, 15.0),
    ],
)
def test_bits_are_planned_over_all_tensors(
    tiny_writer: Path, settings: dict[str, Any], least: float, most: float
) -> None:
    source = tiny_writer / "data"
    counted = CountedDocuments(loaded(tiny_writer), tiny_writer / "teacher", source, source)
    for config in get_args(RoundDecoders):
        stage = config.model_validate(settings)
        bits = foretell(stage, dict.fromkeys(stage.reads, counted.source), counted).made.bits
        assert bits is not None and least <= bits <= most
