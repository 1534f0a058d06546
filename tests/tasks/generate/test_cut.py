"""Cuts of decoders: exact where what goes says nothing, by influence and activity, in every family or refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from registry.records import ShrinkError, digest_directory
from tasks.generate import cut, families, influence, lm, walk
from tasks.kinds import EveryStage, function_of
from tests.tasks.generate.decoders import FAMILIES, tiny
from tests.tasks.generate.lessons import documents, folder_of

IDS = torch.randint(2, 64, (6, 24), generator=torch.Generator().manual_seed(5))
SMALL = {"windows": 8, "length": 16}


def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, use_cache=False).logits
        return found


def silent(linear: Any, rows: list[int] | None = None, columns: list[int] | None = None) -> None:
    """Make some outputs or inputs of a linear say nothing."""
    weight = walk.weight_of(linear)
    if rows is not None:
        weight[rows] = 0
        if linear.bias is not None:
            linear.bias.data[rows] = 0
    if columns is not None:
        weight[:, columns] = 0


def ran(tmp_path: Path, family: str, **said: Any) -> tuple[Path, dict[str, Any]]:
    """What a prune stage makes of a tiny decoder, read again, and what it measured."""
    inputs = {"student": folder_of(tmp_path / "student", family), "data": documents(tmp_path / "data")}
    config = EveryStage.validate_python({"kind": "prune", **said})
    out = tmp_path / "out"
    out.mkdir()
    return out, function_of(config)(inputs, config, out, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_are_left_compute_what_they_did(family: str) -> None:
    model = tiny(family)
    layer = walk.layers_of(model)[1]
    where = cut.anatomy_of(model, "prune/depth")
    for name in (where.out, where.merge):
        linear: Any = layer.get_submodule(name)
        silent(linear, rows=list(range(walk.weight_of(linear).shape[0])))
    wanted = logits(model)
    assert torch.allclose(logits(cut.keep_layers(copy.deepcopy(model), [0, 2])), wanted, atol=1e-5)
    assert not torch.allclose(logits(cut.keep_layers(model, [0, 1])), wanted, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_that_say_nothing_can_go(family: str) -> None:
    model = tiny(family)
    where = cut.anatomy_of(model, "prune/width")
    count = cut.neurons_of(model, where)
    kept = [sorted(torch.randperm(count, generator=torch.Generator().manual_seed(at))[:40].tolist()) for at in range(3)]
    for layer, numbers in zip(walk.layers_of(model), kept, strict=True):
        silent(layer.get_submodule(where.out), columns=[one for one in range(count) if one not in numbers])
    wanted = logits(model)
    made = cut.keep_neurons(model, where, kept)
    assert cut.neurons_of(made, where) == 40 and torch.allclose(logits(made), wanted, atol=1e-4)


GROUPED = [family for family in FAMILIES if family not in {"gpt2", "opt"}]


@pytest.mark.parametrize("family", GROUPED)
def test_a_group_of_heads_that_says_nothing_can_go(family: str) -> None:
    model = tiny(family)
    where = cut.anatomy_of(model, "prune/width")
    kept = [[1], [0], [1]]
    for layer, numbers in zip(walk.layers_of(model), kept, strict=True):
        silent(layer.get_submodule(where.merge), columns=cut.spans([1 - numbers[0]], 16))
    wanted = logits(model)
    made = cut.keep_groups(model, where, kept)
    assert cut.heads_of(made) == cut.Heads(2, 1, 8) and torch.allclose(logits(made), wanted, atol=1e-4)


@pytest.mark.parametrize("family", GROUPED)
def test_heads_that_are_alike_are_pooled_without_a_loss(family: str) -> None:
    model = tiny(family)
    where = cut.anatomy_of(model, "prune/grouped")
    parts = where.attention[1:] if len(where.attention) > 1 else where.attention
    for layer in walk.layers_of(model):
        for name in parts:
            linear: Any = layer.get_submodule(name)
            weight = walk.weight_of(linear)
            start = weight.shape[0] - 32 if len(parts) == 1 else 0  # phi3: keys and values behind the queries
            for at in range(start, weight.shape[0], 16):
                weight[at + 8 : at + 16] = weight[at : at + 8]
                if linear.bias is not None:
                    linear.bias.data[at + 8 : at + 16] = linear.bias.data[at : at + 8]
    wanted = logits(model)
    made = cut.pool_groups(model, where, 1)
    assert cut.heads_of(made) == cut.Heads(4, 1, 8) and torch.allclose(logits(made), wanted, atol=1e-4)


def test_pooled_heads_are_means_by_hand() -> None:
    model = tiny("llama")
    before = walk.weight_of(walk.layers_of(model)[0].self_attn.k_proj).clone()  # type: ignore[union-attr,arg-type]
    after = walk.weight_of(walk.layers_of(cut.pool_groups(model, families.GATED, 1))[0].self_attn.k_proj)  # type: ignore[union-attr,arg-type]
    assert torch.allclose(after, (before[:8] + before[8:]) / 2)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "phi3"])
def test_features_that_are_nothing_can_go(family: str) -> None:
    """RMS norms divide by the mean square, in which what is 0 counts: gains make up for that, then nothing changes."""
    model = tiny(family)
    where, gone = cut.anatomy_of(model, "prune/width"), [3, 8, 20, 31]
    model.get_input_embeddings().weight.data[:, gone] = 0
    for layer in walk.layers_of(model):
        for name in (where.out, where.merge):
            silent(layer.get_submodule(name), rows=gone)
    wanted = logits(model)
    made = cut.keep_width(model, where, [one for one in range(32) if one not in gone])
    for norm in cut.norms(made, 28):
        gains: Any = norm.weight
        gains.data *= (32 / 28) ** 0.5
    assert made.config.hidden_size == 28 and made.config.head_dim == 8
    assert torch.allclose(logits(made), wanted, atol=1e-3)


def test_influence_is_one_minus_the_cosine_by_hand() -> None:
    model = tiny("llama")
    states = model(input_ids=IDS, use_cache=False, output_hidden_states=True).hidden_states
    wanted = [
        float((1 - functional.cosine_similarity(states[at], states[at + 1], dim=-1)).mean().detach()) for at in range(2)
    ]
    assert influence.layers(model, IDS, 4)[:2] == pytest.approx(wanted, rel=1e-4)


def test_activity_is_what_the_paper_says_by_hand() -> None:
    model = tiny("llama")
    seen: dict[str, Tensor] = {}
    layer: Any = walk.layers_of(model)[1]
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.update(ffn=args[0])),
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: seen.update(heads=args[0])),
    ]
    logits(model)
    for handle in handles:
        handle.remove()
    found = influence.sizes(model, families.GATED, IDS, 4)
    assert torch.allclose(found.neurons[1], seen["ffn"].abs().mean(1).square().sum(0).sqrt(), rtol=1e-4)
    heads = seen["heads"].view(6, 24, 2, 16).norm(dim=-1)
    assert torch.allclose(found.groups[1], heads.mean(1).square().sum(0).sqrt(), rtol=1e-4)
    assert found.width.shape == (32,) and bool((found.width > 0).all())


CUTS: list[dict[str, Any]] = [
    {"method": "depth", "keep": 2, **SMALL},
    {"method": "depth", "layers": [0, 2]},
    {"method": "width", "ffn": 32, **SMALL},
    {"method": "width", "groups": 1, **SMALL},
    {"method": "width", "hidden": 24, "ffn": 48, **SMALL},
    {"method": "grouped", "kv_heads": 1},
]
REFUSED = {
    ("gpt2", "groups"): "groups cannot be cut in a 'gpt2'",
    ("opt", "groups"): "groups cannot be cut in a 'opt'",
    ("gpt2", "hidden"): "hidden cannot be cut in a 'gpt2'",
    ("opt", "hidden"): "hidden cannot be cut in a 'opt'",
    ("gemma", "hidden"): "hidden cannot be cut in a 'gemma'",
    ("gemma2", "hidden"): "hidden cannot be cut in a 'gemma2'",
    ("gemma3", "hidden"): "hidden cannot be cut in a 'gemma3_text'",
    ("gpt2", "kv_heads"): "kv_heads cannot be cut in a 'gpt2'",
    ("opt", "kv_heads"): "kv_heads cannot be cut in a 'opt'",
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("said", CUTS, ids=lambda said: "-".join(map(str, list(said.items())[:2])))
def test_every_family_is_cut_or_refused(family: str, said: dict[str, Any], tmp_path: Path) -> None:
    sentence = next((text for (kind, key), text in REFUSED.items() if kind == family and key in said), None)
    if sentence is not None:
        with pytest.raises(ShrinkError, match=sentence):
            ran(tmp_path, family, **said)
        return
    out, told = ran(tmp_path, family, **said)
    model = lm.load(out)
    assert told["parameters"] < told["parameters_before"]
    assert told["parameters"] == sum(one.numel() for one in model.parameters())
    assert torch.isfinite(logits(model)).all()
    with torch.no_grad():  # with a cache, as a runtime goes on: layers must be numbered anew
        going_on = model.generate(IDS[:1, :5], max_new_tokens=4, do_sample=False)
    assert going_on.shape[1] > 5


def test_the_least_influential_layers_go(tmp_path: Path) -> None:
    out, told = ran(tmp_path, "llama", method="depth", keep=2, **SMALL)
    least = min(range(3), key=lambda number: told["influence"][number])
    assert told["layers"] == [one for one in range(3) if one != least]
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 2
    again = tmp_path / "again"
    again.mkdir()
    ran(again, "llama", method="depth", keep=2, **SMALL)
    assert digest_directory(again / "out") == digest_directory(out)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"method": "depth", "keep": 4}, "keep is 4 but the student has 3 layers: give at most that"),
        ({"method": "depth", "layers": [0, 3]}, r"layers is \[0, 3\] but the student has 0 to 2: name some of these"),
        ({"method": "width", "ffn": 65}, "ffn is 65 but the student has only 64: give at most that"),
        ({"method": "width", "groups": 3}, "groups is 3 but the student has only 2: give at most that"),
        ({"method": "width", "ffn": 8, "length": 65}, "length is 65 tokens but the model reads at most 64: lower it"),
        (
            {"method": "grouped", "kv_heads": 3},
            "kv_heads is 3, which does not divide the student's 2: give one of 1, 2",
        ),
    ],
)
def test_what_is_not_there_cannot_be_cut(said: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match=sentence):
        ran(tmp_path, "llama", **said)


@pytest.mark.parametrize("said", CUTS[:1] + CUTS[2:3] + CUTS[5:], ids=lambda said: str(said["method"]))
def test_a_rounded_student_is_not_cut(said: dict[str, Any], tmp_path: Path) -> None:
    inputs = {"student": folder_of(tmp_path / "student", grid="q4_0"), "data": documents(tmp_path / "data")}
    config = EveryStage.validate_python({"kind": "prune", **said})
    with pytest.raises(ShrinkError, match="would undo the rounding of the student's weights: put it before"):
        function_of(config)(inputs, config, tmp_path, 0)
