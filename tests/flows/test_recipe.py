"""Recipes: every shipped one loads, and what is wrong is said in one sentence with the remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import fields, recipe, recipe_file
from flows.smoke import smoke
from flows.steps import steps_of
from registry.records import ShrinkError


def shipped_content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((recipe_file.SHIPPED / "sentiment.yaml").read_text())
    return content


@pytest.mark.parametrize("name", recipe_file.shipped())
def test_every_shipped_recipe_loads_and_has_a_smoke(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.name == name
    assert smoke(loaded).digest != loaded.digest
    assert recipe.load(name).digest == loaded.digest


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ShrinkError, match="did you mean 'sentiment'"):
        recipe.load("sentimnt")


def test_unknown_key_names_the_nearest() -> None:
    content = shipped_content()
    content["gate"]["retention_mni"] = 0.9
    with pytest.raises(ShrinkError, match=r"unknown key 'gate.retention_mni'; did you mean 'retention_min'"):
        recipe.parse(content, "mine.yaml")


def change(path: str, value: Any) -> dict[str, Any]:
    """The shipped content with one value set, or removed where the value is None."""
    content = shipped_content()
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    node: Any = content
    for part in way:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("stagse", [], r"unknown key 'stagse'; did you mean 'stages'\?"),
        ("gate.epochs", 1, r"unknown key 'gate.epochs'; valid here are: approval, beat_floor, "),
        ("stages.0.epoch", 1, r"unknown key 'stage 1 \(finetune\): epoch'; did you mean 'epochs'\?"),
        ("stages.2.mincount", 1, r"unknown key 'stage 3 \(prune/vocabulary\): mincount'; did you mean 'min_count'\?"),
        ("stages.4.kind", "distil", r"stage 5: unknown kind 'distil'; did you mean 'distill'\?"),
        ("stages.4.kind", None, r"stage 5: 'kind' is missing; give one of: finetune, adopt, label, "),
        ("stages.2.method", "vocabulry", r"stage 3 \(prune\): unknown method 'vocabulry'; did you mean 'vocabulary'\?"),
        ("stages.2.method", None, r"stage 3 \(prune\): 'method' is missing; give one of: structured, vocabulary"),
        ("stages.4.method", "logitz", r"stage 5 \(distill\): unknown method 'logitz'; did you mean 'logits'\?"),
        ("stages.0.epochs", 0, r"'stage 1 \(finetune\): epochs' = 0: Input should be greater"),
        ("teacher", None, r"'teacher' is missing; add it"),
        ("data.split", [90, 80], r"'data.split' = \[90, 80\]: split is .* must be two rising percents"),
        ("data.format", "tsv", r"'data.format' = 'tsv'; did you mean 'csv'\?"),
        (
            "name",
            "My Model",
            r"'name' = 'My Model': a name has 1 to 56 lowercase letters, digits and dashes, the first",
        ),
        ("name", "mine-smoke", r"'name' = 'mine-smoke': only smoke walks end in -smoke; change it"),
        ("stages", [], r"'stages' has 0 but needs 1 or more; add what is missing\."),
        ("gate.retention_min", 97, r"'gate.retention_min' = 97: Input should be less than or equal to 2"),
        ("gate.retention_low_min", 1e308, r"'gate.retention_low_min' = 1e\+308: Input should be less .* equal to 2"),
        ("gate.bytes_ratio_min", 1e308, r"'gate.bytes_ratio_min' = 1e\+308: Input .* less than or equal to 10000"),
        ("gate.speed_ratio_min", 10_001, r"'gate.speed_ratio_min' = 10001: Input .* less than or equal to 10000"),
        ("stages.0.lr", float("inf"), r"'stages.1.lr' is not a finite number"),
        ("stages.0.epochs", 10**400, r"'stages.1.epochs' is not a finite number"),
        ("stages.0.epochs", True, r"'stages.1.epochs' is true or false where a number stands"),
        ("evaluate", {"bootstrap": 10**12}, r"bootstrap' = 1000000000000: Input should be less than or equal to"),
        ("stages.4.kind", "a\nb", r"stage 5: unknown kind 'a.nb'; known are"),
        ("seed", 2**32, r"'seed' = 4294967296: Input should be less than 4294967296"),
    ],
)
def test_wrong_content_names_key_value_and_remedy(path: str, value: Any, message: str) -> None:
    with pytest.raises(ShrinkError, match=message) as caught:
        recipe.parse(change(path, value), "mine.yaml")
    assert "\n" not in str(caught.value)


def test_every_loss_weight_and_temperature_has_both_ends() -> None:
    for part in fields.parts().values():
        for field in part["fields"] if part["kind"] in ("distill", "prune") else ():
            if field["name"].endswith("_weight") or field["name"] == "temperature":
                assert field["type"].endswith("≤ 1000"), (part["method"], field)


def test_relative_folders_start_at_the_recipe_and_moving_them_keeps_the_digest(tmp_path: Path) -> None:
    content = shipped_content() | {"teacher": {"uri": "dir:models/bert"}, "data_source": {"uri": "dir:/data"}}
    loaded = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.yaml").write_text(yaml.safe_dump(content))
        loaded.append(recipe.load(str(tmp_path / name / "mine.yaml")))
    assert [one.teacher.uri for one in loaded] == [
        f"dir:{tmp_path / name / 'models/bert'}" for name in ("here", "there")
    ]
    assert loaded[0].data_source.uri == "dir:/data"
    assert loaded[0].digest == loaded[1].digest
    other = recipe.parse(content | {"teacher": {"uri": "dir:models/other"}}, "mine.yaml")
    assert other.digest != loaded[0].digest


def test_a_runs_own_recipe_json_gives_the_same_recipe(tmp_path: Path) -> None:
    for one in (recipe.load("sentiment"), smoke(recipe.load("sentiment"))):
        (tmp_path / "recipe.json").write_text(one.model_dump_json(indent=1))
        assert recipe.load(str(tmp_path / "recipe.json")).digest == one.digest


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


def test_a_second_teacher_would_discard_the_student() -> None:
    content = shipped_content()
    content["stages"].insert(4, {"kind": "finetune"})
    with pytest.raises(
        ShrinkError, match=r"stage 5 \(finetune\) makes .* discard what stage 4 \(prune/structured\) made"
    ):
        recipe.parse(content, "mine.yaml")


@pytest.mark.parametrize("method", ["magnitude", "wanda", "gradual", "movement"])
def test_zeros_stand_behind_what_would_change_them(method: str) -> None:
    content = shipped_content()
    zeros, packed = {"kind": "prune", "method": method}, {"kind": "export", "method": "packed"}
    stages = content["stages"]
    content["stages"] = [*stages[:5], zeros, packed, *stages[5:]]
    assert recipe.parse(content, "mine.yaml").stages[6].writes == ("packed", "packed")
    content["stages"] = [*stages[:4], zeros, *stages[4:]]
    with pytest.raises(ShrinkError, match=rf"stage 6 \(distill/logits\) changes .* stage 5 \(prune/{method}\) has set"):
        recipe.parse(content, "mine.yaml")
    content["stages"] = [*stages[:3], zeros, stages[3], *stages[5:]]
    with pytest.raises(ShrinkError, match=r"stage 5 \(prune/structured\) changes the weights that stage 4"):
        recipe.parse(content, "mine.yaml")
    content["stages"] = [*stages[:5], zeros, {"kind": "prune", "method": "gradual"}, *stages[5:]]
    with pytest.raises(ShrinkError, match=rf"stage 7 \(prune/gradual\) changes .* stage 6 \(prune/{method}\) has set"):
        recipe.parse(content, "mine.yaml")
    content["stages"] = [*stages[:5], zeros, packed]
    with pytest.raises(ShrinkError, match="without a deployable"):
        recipe.parse(content, "mine.yaml")


def aware(target: Any, quantize: dict[str, Any] | None, *between: dict[str, Any]) -> recipe.Recipe:
    """The shipped recipe with quantization-aware distillation, and what stands behind it."""
    content = shipped_content()
    taught = {"kind": "distill", "method": "quantized", "target": target}
    last = [{"kind": "quantize", **quantize}] if quantize else []
    content["stages"] = [*content["stages"][:4], taught, *between, {"kind": "export"}, *last]
    return recipe.parse(content, "mine.yaml")


def test_what_is_quantized_is_what_was_trained_for() -> None:
    assert aware("int8_dynamic", {"method": "int8_dynamic"}).stages[4].kind == "distill"
    four = {"method": "int4_weight_only", "block_size": 64, "embedding": "int4"}
    packed = {"kind": "export", "method": "packed"}
    assert smoke(aware(four, four, packed)).stages[4].epochs == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("target", "quantize", "between", "message"),
    [
        ("int8_dynamc", None, [], r"stage 5 \(distill/quantized\): target: unknown .*did you mean 'int8_dynamic'"),
        ({"embedding": "int8"}, None, [], r"target: 'method' is missing; give one of: int8_dynamic, int4_weight_only"),
        ({"method": "int8_dynamic", "embeding": "int4"}, None, [], r"target.* did you mean 'embedding'"),
        ({"method": "int4_weight_only", "block_size": 48}, None, [], r"block_size' = 48; it may be: 16, 32, 64, 128"),
        (
            "int8_dynamic",
            {"method": "int8_dynamic", "embedding": "int4"},
            [],
            r"stage 7 \(quantize/int8_dynamic\) has embedding 'int4' but stage 5 .* trained for 'int8'; let the two",
        ),
        (
            "int8_dynamic",
            {"method": "int8_static"},
            [],
            r"stage 7 \(quantize/int8_static\) has method 'int8_static' but stage 5 .* trained for 'int8_dynamic'",
        ),
        ("int8_dynamic", None, [], r"stage 5 .* trains for a quantize stage that is not there; add .*int8_dynamic"),
        (
            "int8_dynamic",
            {"method": "int8_dynamic"},
            [{"kind": "prune", "method": "low_rank", "rank": 8}],
            r"stage 6 \(prune/low_rank\) changes what stage 5 \(distill/quantized\) has trained; put it before",
        ),
        (
            "int8_dynamic",
            {"method": "int8_dynamic"},
            [{"kind": "distill"}],
            r"stage 6 \(distill/logits\) changes what stage 5",
        ),
    ],
)
def test_another_grid_than_the_one_trained_for_is_refused(
    target: Any, quantize: dict[str, Any] | None, between: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ShrinkError, match=message) as caught:
        aware(target, quantize, *between)
    assert "\n" not in str(caught.value)


def test_smoothing_stands_before_a_quantization() -> None:
    content, smoothing = shipped_content(), {"kind": "quantize", "method": "smooth", "calibration_rows": 100}
    stages = content["stages"]
    content["stages"] = [*stages[:-1], smoothing, stages[-1]]
    assert smoke(recipe.parse(content, "mine.yaml")).stages[-2].calibration_rows == 64  # type: ignore[union-attr]
    content["stages"] = [*stages, smoothing]
    with pytest.raises(ShrinkError, match=r"stage 8 \(quantize/smooth\) smooths what stage 7 .* has quantized; put it"):
        recipe.parse(content, "mine.yaml")
    content["stages"] = [*stages[:-1], smoothing]
    with pytest.raises(ShrinkError, match=r"stage 7 \(quantize/smooth\) changes nothing by itself; add a quantize"):
        recipe.parse(content, "mine.yaml")
    for alpha in (0, 1, -0.5):
        content["stages"] = [*stages[:-1], smoothing | {"alpha": alpha}, stages[-1]]
        with pytest.raises(ShrinkError, match=r"stage 7 \(quantize/smooth\): alpha' = .* (greater|less) than"):
            recipe.parse(content, "mine.yaml")


DEEP = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", r"is not YAML at line 1"),
        (b"name: mine\nseed: 0\nname: other\n", r"has the key 'name' again in line 3; remove one"),
        (b"root:x:0:0:root:/root:/bin/bash\n", r"is no recipe: it holds a str where keys such as stages belong; copy"),
        (b"", r"is no recipe: it holds nothing where keys"),
        (b"- name: mine\n", r"is no recipe: it holds a list where keys"),
        (b"name: \xe9\n", r"is no UTF-8 at byte 6"),
        (b"seed: 2026-13-45\n", r"is not YAML \(month must be in 1..12\)"),
        (b"[" * 5000, r"is not YAML \(maximum recursion"),
        (DEEP.encode(), r"holds more than 10000 values"),
        (b"a: &a [*a]\n", r"holds more than 10000 values"),
        (b"#" * 2_000_000, r"has 2 MB, which no recipe has"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    for path in (tmp_path / "mine.yaml", tmp_path / "passwd"):
        path.write_bytes(content)
        with pytest.raises(ShrinkError, match=message) as caught:
            recipe.load(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("/", r"'/' is a folder; name a .yaml file"), ("/dev/null", r"is no ordinary file"), ("x" * 5000, r"not exist")],
)
def test_what_is_no_file_is_no_recipe(name: str, message: str) -> None:
    with pytest.raises(ShrinkError, match=message) as caught:
        recipe.load(name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"kind": "prune", "method": "magnitude", "sparsity": 1.5},
            r"\(prune/magnitude\): sparsity' = 1.5: .* less than 1",
        ),
        ({"kind": "prune", "method": "wanda", "sparsity": 0}, r"\(prune/wanda\): sparsity' = 0: .* greater than 0"),
        ({"kind": "prune", "method": "gradual", "sparsity": 1}, r"\(prune/gradual\): sparsity' = 1: .* less than 1"),
        ({"kind": "prune", "method": "movement", "begin": 0.8, "end": 0.5}, r"end' = 0.5: end must be above begin"),
        (
            {"kind": "prune", "method": "low_rank", "rank": 0},
            r"\(prune/low_rank\): rank' = 0: .* greater than or equal",
        ),
        (
            {"kind": "prune", "method": "wanda", "calibration_rows": 0},
            r"calibration_rows' = 0: .* greater than or equal",
        ),
        (
            {"kind": "student", "method": "narrow", "heads": 5},
            r"\(student/narrow\): width' = 128: heads = 5 does not divi",
        ),
        (
            {"kind": "student", "method": "mobilebert", "bottleneck": 6},
            r"bottleneck' = 6: heads = 4 does not divide it",
        ),
        ({"kind": "student", "method": "squeezebert", "groups": 3}, r"groups' = 3: it does not divide width = 256"),
        ({"kind": "distill", "lr": 0}, r"\(distill/logits\): lr' = 0: Input should be greater than 0"),
        ({"kind": "distill", "temperature": -1}, r"\(distill/logits\): temperature' = -1: .* greater than or"),
        ({"kind": "distill", "temperature": 5e-324}, r"temperature' = 5e-324: .* greater than or equal to 0.001"),
        ({"kind": "distill", "temperature": 1e308}, r"temperature' = 1e\+308: .* less than or equal to 1000"),
        ({"kind": "distill", "logits_weight": 1e300}, r"logits_weight' = 1e\+300: .* less than or equal to 1000"),
        (
            {"kind": "distill", "method": "hidden", "states_weight": 1e300},
            r"\(distill/hidden\): states_weight' = 1e\+300: .* less than or equal to 1000",
        ),
        (
            {"kind": "distill", "logits_weight": 0, "hidden_weight": 0, "labels_weight": 0},
            r"\(distill/logits\): logits_weight and hidden_weight and labels_weight are all 0, .* a weight above 0\.$",
        ),
    ],
)
def test_ratios_and_sizes_out_of_range_are_refused_when_read(stage: dict[str, Any], message: str) -> None:
    content = shipped_content()
    content["stages"].insert(2, stage)
    with pytest.raises(ShrinkError, match=rf"recipe 'mine.yaml': '?stage 3 .*{message}") as caught:
        recipe.parse(content, "mine.yaml")
    assert "\n" not in str(caught.value)


def test_transfer_texts_that_nobody_labelled_cannot_teach() -> None:
    content = shipped_content()
    assert content["data"]["transfer"] and content["stages"][1]["kind"] == "label"
    content["stages"][1]["transfer"] = False
    with pytest.raises(
        ShrinkError,
        match=r"stage 5 \(distill/logits\) learns from transfer texts, but stage 2 \(label\) labels none of",
    ):
        recipe.parse(content, "mine.yaml")
    content["stages"][4]["transfer"] = False
    assert recipe.parse(content, "mine.yaml")
    content["stages"][4]["transfer"], content["data"]["transfer"] = True, []
    assert recipe.parse(content, "mine.yaml")


SMALL = {"kind": "finetune", "teacher": "small", "keep_layers": 3}
ELSEWHERE = {"uri": "dir:models/small"}


def several(label: dict[str, Any], *made: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The shipped content with these stages behind its teacher's, another label stage, and other keys."""
    content = shipped_content() | more
    first, old, *rest = content["stages"]
    content["stages"] = [first, *made, old | label, *rest]
    return content


def test_further_teachers_start_at_the_main_source_or_their_own() -> None:
    both = {"teachers": {"teacher": 1.0, "small": 0.5}, "confidence": True}
    plain = recipe.parse(several(both, SMALL), "mine.yaml")
    assert [dict(step.inputs) for step in steps_of(plain).steps[2:5]] == [
        {"teacher": "teacher source", "data": "00-data"},
        {"small": "teacher source", "data": "00-data"},
        {"small": "03-finetune", "teacher": "02-finetune", "data": "00-data", "floor": "01-floor"},
    ]
    own = recipe.parse(several(both, SMALL, teachers={"small": ELSEWHERE}), "mine.yaml")
    assert steps_of(own).steps[3].inputs["small"] == "small source"
    assert steps_of(own).judged == steps_of(plain).judged and own.digest != plain.digest
    assert set(own.origins) == {"teacher", "small", "data"}
    moved = recipe.anchored(own, Path("/there"))
    assert moved.teachers["small"].uri == "dir:/there/models/small" and moved.digest == own.digest
    assert smoke(own).stages[1].keep_layers == 2  # type: ignore[union-attr]


def test_a_next_generation_begins_where_the_first_one_did() -> None:
    content = shipped_content()
    taught, deployed = content["stages"][:5], content["stages"][5:]
    again = [{"kind": "label", "teachers": {"student": 1}}, {"kind": "distill", "afresh": True}]
    born = recipe.parse(content | {"stages": [*taught, *again, *deployed]}, "mine.yaml")
    steps = {step.name: step for step in steps_of(born).steps}
    assert steps["07-label"].inputs["student"] == "06-distill-logits"
    assert set(steps["08-distill-logits"].inputs) == {"start", "labels", "data"}
    assert steps["08-distill-logits"].inputs["start"] == "05-prune-structured"
    assert steps["08-distill-logits"].inputs["labels"] == "07-label"
    assert steps["09-export-onnx"].inputs == {"model": "08-distill-logits"}
    for wrong in ([*taught[:4], again[1]], [*taught, {"kind": "prune", "method": "structured", "ffn": 64}, again[1]]):
        with pytest.raises(ShrinkError, match=r"\(distill/logits\) needs start as torch, but it is not made yet there"):
            recipe.parse(content | {"stages": [*wrong, *deployed]}, "mine.yaml")


@pytest.mark.parametrize(
    ("label", "made", "more", "message"),
    [
        ({"teachers": {"small": 1}}, [], {}, r"stage 2 \(label\) needs small as torch, but it is not made yet"),
        (
            {},
            [],
            {"teachers": {"small": ELSEWHERE}},
            r"teachers names 'small', but no stage makes it: add \{kind",
        ),
        ({}, [], {"teachers": {"teacher": ELSEWHERE}}, r"teachers names 'teacher', but that is the one under its own"),
        ({}, [], {"teachers": {"labels": ELSEWHERE}}, r"labels is not free for a teacher"),
        ({}, [SMALL | {"teacher": "student"}], {}, r"the student is no teacher that can be made"),
        (
            {"teachers": {"teacher": 0}},
            [],
            {},
            r"stage 2 \(label\): teachers is .* needs weights of 0 or more, one above 0",
        ),
        ({"confidence": True}, [], {}, r"stage 2 \(label\): confidence .* but teachers names one: name another"),
    ],
)
def test_teachers_that_do_not_go_together_are_refused_when_read(
    label: dict[str, Any], made: list[dict[str, Any]], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShrinkError, match=message) as caught:
        recipe.parse(several(label, *made, **more), "mine.yaml")
    assert "\n" not in str(caught.value)


def test_vectors_and_several_labels_a_row_have_one_teacher() -> None:
    embedder: dict[str, Any] = yaml.safe_load((recipe_file.SHIPPED / "embedder.yaml").read_text())
    place = next(number for number, stage in enumerate(embedder["stages"]) if stage["kind"] == "label")
    embedder["stages"][place]["teachers"] = {"teacher": 1, "student": 1}
    with pytest.raises(
        ShrinkError, match=rf"stage {place + 1} \(label\) names 2 teachers, but vectors of several cannot"
    ):
        recipe.parse(embedder, "mine.yaml")
    several_labels = {"kind": "data", "file": "rows.jsonl", "format": "jsonl", "multi_label": True}
    content = several({"teachers": {"teacher": 1, "small": 1}, "second_teacher": 0}, SMALL, data=several_labels)
    with pytest.raises(ShrinkError, match=r"stage 3 \(label\) names 2 teachers but data.multi_label is true"):
        recipe.parse(content, "mine.yaml")


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000])
def test_a_source_that_is_no_path_is_refused(path: str) -> None:
    asking = recipe.load("sentiment")
    asking = asking.model_copy(update={"teacher": asking.teacher.model_copy(update={"uri": f"dir:{path}"})})
    with pytest.raises(ShrinkError, match=r"source 'dir:a.*' is no path that can be; give another"):
        recipe.anchored(asking, Path("/"))
