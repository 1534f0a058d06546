"""Layer by layer a decoder gives what the whole gives, in every family; what is known is not done again."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.generate import gptq, grids, walk
from tests.tasks.generate.decoders import FAMILIES, tiny

IDS = torch.randint(2, 64, (6, 24), generator=torch.Generator().manual_seed(5))
GRID = grids.integer(4, 32, False)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
        return found


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_one_by_one_are_the_whole_model(family: str) -> None:
    model = tiny(family)
    kept: list[Tensor] = []
    last = walk.layers_of(model)[-1]

    def keep(module: nn.Module, args: Any, found: Any) -> None:
        kept.append(found[0] if isinstance(found, tuple) else found)

    handle = last.register_forward_hook(keep)
    logits(model)
    handle.remove()
    hidden, caught = walk.start(model, IDS, batch=2)
    assert len(hidden) == 3 and len(caught) == 3
    for layer, one in zip(walk.layers_of(model), caught, strict=True):
        walk.through(layer, hidden, one)
    assert torch.allclose(torch.cat(hidden), kept[0], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_goes_through_every_linear_of_every_family(family: str) -> None:
    model = tiny(family)
    before, seen = logits(model), list[str]()

    def change(index: int, layer: nn.Module, sums: walk.Sums, give: walk.Give) -> None:
        for name, linear in walk.linears_of(layer).items():
            weight = walk.weight_of(linear)
            assert sums[name].shape == (weight.shape[1], weight.shape[1])
            walk.put(linear, gptq.quantize(weight, sums[name], GRID).value())
            assert len(walk.weight_of(linear)[0, :32].unique()) <= 16
            seen.append(f"{index}.{name}")

    walk.walk(model, IDS, change, lambda index, layer: False, batch=3)
    assert len(seen) == sum(len(walk.linears_of(layer)) for layer in walk.layers_of(model))
    apart = float((logits(model) - before).norm() / before.norm())
    assert 0 < apart < 0.6


def test_sums_are_those_of_the_inputs() -> None:
    model = tiny("llama")
    hidden, caught = walk.start(model, IDS, batch=3)
    layer, inputs = walk.layers_of(model)[0], list[Tensor]()
    handle = layer.mlp.down_proj.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))  # type: ignore
    found = walk.sums(layer, hidden, caught[0])
    handle.remove()
    rows = torch.cat(inputs).flatten(0, 1)
    assert torch.allclose(found["mlp.down_proj"], rows.T @ rows, rtol=1e-4, atol=1e-3)
    assert torch.equal(found["self_attn.q_proj"], found["self_attn.v_proj"])


def test_a_walk_goes_on_behind_the_layers_that_are_known() -> None:
    done: dict[int, dict[str, Tensor]] = {}
    whole, again = tiny("llama"), tiny("llama")

    def change(index: int, layer: nn.Module, sums: walk.Sums, give: walk.Give) -> None:
        for name, linear in walk.linears_of(layer).items():
            walk.put(linear, gptq.quantize(walk.weight_of(linear), sums[name], GRID).value())
        done[index] = {name: value.clone() for name, value in layer.state_dict().items()}

    walk.walk(whole, IDS, change, lambda index, layer: False)
    first, did = dict(done), list[int]()

    def known(index: int, layer: nn.Module) -> bool:
        if index < 2:
            layer.load_state_dict(first[index])
        return index < 2

    def counting(index: int, layer: nn.Module, sums: walk.Sums, give: walk.Give) -> None:
        did.append(index)
        change(index, layer, sums, give)

    walk.walk(again, IDS, counting, known)
    assert did == [2] and torch.equal(logits(whole), logits(again))
