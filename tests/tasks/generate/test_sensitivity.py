"""A budget of bits: what errors are foretold to cost, what they cost, and that it buys more than one grid for all."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from registry.records import ShrinkError, digest_directory
from tasks import checkpoint
from tasks.generate import divergence, fisher, grids, lm, rounding, sensitivity, walk
from tasks.kinds import EveryStage, function_of
from tasks.quantize import awq, gptq, rtn
from tests.tasks.generate.decoders import FAMILIES, tiny
from tests.tasks.generate.folders import IDS, logits, model_folder, rows_folder

SMALL = {"calibration_blocks": 12, "calibration_length": 24, "batch": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows_folder(tmp_path_factory.mktemp("rows") / "data")


def rounded(student: Path, data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    config = EveryStage.validate_python({"kind": "quantize", **SMALL, **settings})
    return function_of(config)({"student": student, "data": data}, config, out, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_squared_gradients_are_those_of_a_plain_backward_pass(family: str) -> None:
    model = tiny(family)
    linears = rounding.linears(model)
    found = fisher.diagonals(model, IDS, linears, 7)
    assert all(weight.requires_grad for weight in model.parameters())
    generator, wanted = torch.Generator().manual_seed(7), {name: torch.zeros(len(one)) for name, one in found.items()}
    outputs: dict[str, Tensor] = {}
    for name, linear in linears.items():
        linear.register_forward_hook(lambda module, args, output, name=name: outputs.update({name: output}))
    for block in IDS.split(1):
        said = functional.log_softmax(model(input_ids=block, use_cache=False).logits[0], -1)
        drawn = torch.multinomial(said.detach().exp(), 1, generator=generator)
        given = torch.autograd.grad(said.gather(1, drawn).sum(), list(outputs.values()))
        for name, gradient in zip(outputs, given, strict=True):
            wanted[name] += gradient.flatten(0, -2).square().sum(0)
    for name, one in found.items():
        torch.testing.assert_close(one, wanted[name] / IDS.numel(), rtol=1e-3, atol=1e-7)


def test_a_small_error_costs_about_what_it_was_foretold() -> None:
    """Averaged over draws of the error, whose shape the diagonal does not know."""
    model, generator = tiny("llama"), torch.Generator().manual_seed(1)
    ids = torch.randint(3, 18, (40, 24), generator=generator)
    name, linear = "model.layers.1.mlp.down_proj.weight", model.model.layers[1].mlp.down_proj
    diagonal = fisher.diagonals(model, ids, {name: linear}, 0)[name]
    inputs: list[Tensor] = []
    handle = linear.register_forward_pre_hook(lambda module, args: inputs.append(args[0].flatten(0, 1)))
    before = divergence.spoken(model, ids)
    handle.remove()
    rows, foretold, seen = torch.cat(inputs), 0.0, 0.0
    for _ in range(6):
        error = 1e-3 * torch.randn(linear.weight.shape, generator=generator)
        foretold += fisher.divergence(error, rows.T @ rows, len(rows), diagonal)
        with torch.no_grad():
            linear.weight += error
            seen += divergence.seen(model, ids, before)
            linear.weight -= error
    assert foretold == pytest.approx(seen, rel=0.35)


def planted(folder: Path) -> Path:
    """A model whose middle layer alone speaks loudly: errors there cost most."""
    model = tiny("llama")
    for number, layer in enumerate(model.model.layers):
        loud = 3.0 if number == 1 else 0.2
        layer.mlp.down_proj.weight.data *= loud
        layer.self_attn.o_proj.weight.data *= loud
    return model_folder(folder, model=model)


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_a_budget_is_kept_and_buys_more_than_one_grid_for_all(tmp_path: Path, data: Path, method: str) -> None:
    student = planted(tmp_path / "student")
    before, uniform = logits(student), {"grid": "q5_0", "embedding": "q5_0"}
    told = rounded(student, data, tmp_path / "one", method=method, **uniform)
    mixed = rounded(student, data, tmp_path / "mixed", method=method, target=told["bits_per_weight"])
    assert told["bits_per_weight"] - 0.3 < mixed["bits_per_weight"] <= told["bits_per_weight"]
    costs = {}
    for name in ("one", "mixed"):
        now, old = (functional.log_softmax(one, -1) for one in (logits(tmp_path / name), before))
        costs[name] = float(functional.kl_div(now, old, log_target=True, reduction="sum")) / IDS.numel()
    assert costs["mixed"] < 0.8 * costs["one"], costs


def test_what_is_foretold_to_cost_most_does(tmp_path: Path) -> None:
    """Every linear layer alone on q4_0, and the embedding: the order of the costs is that of the divergences seen."""
    model = lm.load(planted(tmp_path / "student"))
    ids, names = IDS.repeat(3, 1), [*rounding.linears(model), "model.embed_tokens.weight"]
    same = sensitivity.Scaled(lambda layer, sums, give: 1.0, rtn.table)
    foretold = sensitivity.errors(model, ids, names, same, (tmp_path, ""), 3)
    with torch.no_grad():
        before, seen = divergence.spoken(model, IDS), {}
        for name in names:
            weight = lm.own_weights(model)[name]
            kept = weight.clone()
            weight.copy_(grids.nearest(kept, grids.GGUF["q4_0"]).value())
            seen[name] = divergence.seen(model, IDS, before)
            weight.copy_(kept)
    pairs = torch.tensor([[float(foretold[name][0]), seen[name]] for name in names])
    ranks = pairs.argsort(0).argsort(0).float()
    assert float(torch.corrcoef(ranks.T)[0, 1]) > 0.8
    assert 0.5 < float(pairs[:, 0].sum() / pairs[:, 1].sum()) < 2.0


def onto(grid: grids.Grid, name: str, weight: Tensor) -> Tensor:
    return grids.nearest(weight, grid, None, sensitivity.PARTS).value()


def test_errors_that_go_together_are_seen(tmp_path: Path) -> None:
    """Weights near a grid that training has left: all of them back on it cost more than each error by itself says."""
    model = lm.load(planted(tmp_path / "student"))
    linears = rounding.linears(model)
    for linear in linears.values():
        walk.put(linear, grids.nearest(walk.weight_of(linear), grids.GGUF["q4_1"]).value())
    weights = [weight for name, weight in model.named_parameters() if name in linears]
    for _ in range(3):  # a little training: steps of one size everywhere
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        with torch.no_grad():
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight -= 2e-3 * gradient.sign()
    same = sensitivity.Scaled(lambda layer, sums, give: 1.0, rtn.table)
    found = sensitivity.errors(model, IDS.repeat(3, 1), [*linears], same, (tmp_path, ""), 3)
    foretold = torch.stack([*found.values()]).sum(0)
    before = divergence.spoken(model, IDS[:3])
    for at, grid in enumerate(grids.GGUF.values()):
        with divergence.changed(model, functools.partial(onto, grid)):
            assert float(foretold[at]) == pytest.approx(divergence.seen(model, IDS[:3], before), rel=0.3), grid.name
    assert all(bool(torch.equal(a, b)) for a, b in zip(before, divergence.spoken(model, IDS[:3]), strict=True))


@pytest.mark.parametrize("method", [rtn, gptq, awq], ids=lambda one: one.__name__.rpartition(".")[2])
def test_a_table_costs_what_is_seen_with_the_methods_own_rounding_on_text_that_it_was_not_fitted_to(
    tmp_path: Path, method: Any
) -> None:
    model, name = lm.load(planted(tmp_path / "student")), "model.embed_tokens.weight"
    ids = torch.randint(3, 18, (12, 24), generator=torch.Generator().manual_seed(8))
    weight = lm.own_weights(model)[name]
    whole = weight.clone()
    scaled = sensitivity.Scaled(lambda layer, sums, give: 1.0, method.table)
    found = sensitivity.errors(model, ids, [name], scaled, (tmp_path, ""), 3)[name]
    assert torch.equal(weight, whole)
    read: list[Tensor] = []
    handle = model.lm_head.register_forward_pre_hook(lambda module, args: read.append(args[0].flatten(0, 1).double()))
    with torch.no_grad():
        for block in ids[3:11].split(1):  # behind the windows that are seen
            model(input_ids=block, use_cache=False)
        handle.remove()
        sums = torch.stack([one.T @ one for one in read]).sum(0).float()
        before = functional.log_softmax(model(input_ids=ids[:3], use_cache=False).logits.double(), -1)
        for at, grid in enumerate(grids.GGUF.values()):
            weight.copy_(method.table(whole, sums, grid).value())
            now = functional.log_softmax(model(input_ids=ids[:3], use_cache=False).logits.double(), -1)
            wanted = float((before.exp() * (before - now)).sum() / (3 * 24))
            assert float(found[at]) == pytest.approx(wanted, rel=0.02, abs=1e-6), grid.name
            weight.copy_(whole)
    assert sorted(found.tolist(), reverse=True)[-1] == float(found[-1]) and float(found[0]) > 10 * float(found[-1])


def test_a_tied_embedding_is_counted_once(tmp_path: Path, data: Path) -> None:
    student = model_folder(tmp_path / "student")
    told = rounded(student, data, tmp_path / "out", method="rtn", target=6.0)
    weights = lm.own_weights(lm.load(student))
    said = json.loads((tmp_path / "out" / "grids.json").read_text())
    bits = sum(
        one.numel() * (said[name]["bits"] if name in said else 16 if one.ndim > 1 else 32)
        for name, one in weights.items()
    )
    assert told["bits_per_weight"] == pytest.approx(bits / sum(map(torch.numel, weights.values())))
    assert "lm_head.weight" not in weights and sum(told["weights"].values()) == sum(map(torch.numel, weights.values()))


def test_what_was_measured_before_a_kill_is_not_measured_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = model_folder(tmp_path / "student")
    rounded(student, data, tmp_path / "whole", method="gptq", target=5.5)
    monkeypatch.setattr(checkpoint, "place", (tmp_path, "key"))
    costs, called = sensitivity.costs, iter(range(100))

    def cut(*arguments: Any) -> Tensor:
        if next(called) == 16:
            raise KeyboardInterrupt
        return costs(*arguments)

    monkeypatch.setattr(sensitivity, "costs", cut)
    with pytest.raises(KeyboardInterrupt):
        rounded(student, data, tmp_path / "cut", method="gptq", target=5.5)
    rounded(student, data, tmp_path / "again", method="gptq", target=5.5)
    assert next(called) == 17 + 7
    assert digest_directory(tmp_path / "again") == digest_directory(tmp_path / "whole")


def test_a_budget_that_is_too_small_is_refused(tmp_path: Path, data: Path) -> None:
    student = model_folder(tmp_path / "student")
    with pytest.raises(ShrinkError, match=r"target is 5 but the smallest grids take 5\.\d\d bits a weight: raise it"):
        rounded(student, data, tmp_path / "out", method="rtn", target=5.0, embedding="none")
    for given, said in (({"target": 5.0, "grid": "q4_0"}, "give only one of them"), ({}, "give grid or target, such")):
        with pytest.raises(ValueError, match=said):
            EveryStage.validate_python({"kind": "quantize", "method": "gptq", **given})


def test_fixed_grids_stay_under_a_target(tmp_path: Path, data: Path) -> None:
    given: dict[str, Any] = {"target": 6.5, "embedding": "q8_0", "exceptions": {"layers.0.*": "q4_0", "v_proj": "none"}}
    told = rounded(model_folder(tmp_path / "student"), data, tmp_path / "out", method="gptq", **given)
    said = {name: one["name"] for name, one in json.loads((tmp_path / "out" / "grids.json").read_text()).items()}
    assert told["bits_per_weight"] <= 6.5 and told["foretold_kl"] > 0
    assert said["model.embed_tokens.weight"] == "q8_0" and said["model.layers.0.mlp.up_proj.weight"] == "q4_0"
    assert not any("v_proj" in name for name in said)
