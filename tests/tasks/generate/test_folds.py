"""Factors that go into norms and products before: the layer gives the same, and large inputs are rounded finer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.generate import folds, gptq, grids, walk
from tasks.quantize import awq
from tests.tasks.generate.decoders import FAMILIES, tiny
from tests.tasks.generate.folders import IDS

PRODUCTS = {  # by family what a factor passes to besides norms
    "llama": {"mlp.down_proj"},
    "mistral": {"mlp.down_proj"},
    "qwen2": {"mlp.down_proj"},
    "qwen3": {"mlp.down_proj"},
    "gemma": {"mlp.down_proj"},
    "gemma2": {"mlp.down_proj"},
    "gemma3": {"mlp.down_proj"},
    "opt": {"fc2", "self_attn.out_proj"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_of_every_family_leave_what_a_layer_gives(family: str) -> None:
    model = tiny(family)
    for weight in model.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, 0.5, 0.3, generator=torch.Generator().manual_seed(1))
    hidden, caught = walk.start(model, IDS, 4)
    layer = walk.layers_of(model)[0]

    def give() -> torch.Tensor:
        return walk.given(layer, hidden[0], caught[0])

    before, sums = give(), walk.sums(layer, hidden, caught[0])
    makers = folds.sources(layer, give)
    linears = walk.linears_of(layer)
    products = {name for name, one in makers.items() if one in linears.values()}
    assert products == PRODUCTS.get(family, set())
    assert len(makers) - len(products) >= 2  # what reads a norm
    for maker in dict.fromkeys(makers.values()):
        names = [name for name, one in makers.items() if one is maker]
        factor = torch.linspace(0.5, 2.0, sums[names[0]].shape[0])
        folds.divide(maker, factor)
        for name in names:
            folds.multiply(linears[name], factor)
    assert float((give() - before).norm() / before.norm()) < 1e-4
    changed = walk.sums(layer, hidden, caught[0])
    assert all(not torch.allclose(changed[name], sums[name], rtol=1e-2) for name in makers)


def test_awq_beats_nearest_where_few_inputs_are_large(tmp_path: Path) -> None:
    model, errors = tiny("llama"), {}
    model.model.layers[0].input_layernorm.weight.data[::16] *= 20
    hidden, caught = walk.start(model, IDS, 4)
    layer: Any = walk.layers_of(model)[0]
    sums = walk.sums(layer, hidden, caught[0])
    kept, whole = (
        {name: one.clone() for name, one in layer.state_dict().items()},
        walk.given(layer, hidden[0], caught[0]),
    )
    chosen = dict.fromkeys(walk.linears_of(layer), grids.integer(3, 16, False))
    for name, by in (("rtn", nearest), ("awq", awq.layer)):
        for linear, rounded in by(layer, chosen, sums, lambda: walk.given(layer, hidden[0], caught[0])).items():
            walk.put(walk.linears_of(layer)[linear], rounded.value())
        errors[name] = float((walk.given(layer, hidden[0], caught[0]) - whole).norm())
        layer.load_state_dict(kept)
    assert errors["awq"] < 0.8 * errors["rtn"], errors


def nearest(layer: Any, chosen: dict[str, grids.Grid], *rest: Any) -> dict[str, grids.Rounded]:
    linears = walk.linears_of(layer)
    return {name: grids.nearest(walk.weight_of(linears[name]), grid) for name, grid in chosen.items()}


def test_a_layer_that_would_give_something_else_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    hidden, caught = walk.start(model, IDS, 4)
    layer = walk.layers_of(model)[0]
    sums = walk.sums(layer, hidden, caught[0])
    kept = {name: one.clone() for name, one in layer.state_dict().items()}
    monkeypatch.setattr(folds, "divide", lambda maker, factor: None)
    chosen = dict.fromkeys(walk.linears_of(layer), grids.GGUF["q4_0"])
    assert awq.moved(layer, chosen, sums, lambda: walk.given(layer, hidden[0], caught[0])) == {}
    assert all(torch.equal(value, kept[name]) for name, value in layer.state_dict().items())
    assert gptq.output_error(kept["mlp.up_proj.weight"], kept["mlp.up_proj.weight"], sums["mlp.up_proj"]) == 0
