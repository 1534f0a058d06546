"""Rounds a decoder: which weight takes which grid, layer by layer, and what is then written and counted.

A layer that is done is kept beside the stage as it is stored (tasks/checkpoint.py), so that a killed stage goes on
behind it with the same result; only one layer's sums and one layer's integers are in memory beside the model.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from registry.records import ShrinkError
from tasks import checkpoint, data, progress
from tasks.generate import choices, grids, lm, text, walk
from tasks.generate.choices import CalibrationConfig, RoundingConfig
from tasks.generate.grids import Grid, Rounded

Grids = dict[str, Grid]  # by name of a weight; one that is not there stays as it is
Method = Callable[[nn.Module, walk.Sums | None, Grids], dict[str, Rounded]]  # a layer's weights by name inside of it


def run(inputs: dict[str, Path], config: RoundingConfig, out: Path, seed: int, method: Method, needs_text: bool) -> Any:
    """Write the student rounded by a method; measured: bits per weight, and what went on which grid."""
    model = lm.load(inputs["student"])
    check_finite(model)
    chosen = wanted(model, config)
    check_groups(model, chosen)
    ids = calibration(inputs, config, seed) if needs_text else None
    with checkpoint.parts() as at:
        rounded = layers(model, ids, config.batch, chosen, method, at)
        for name in tables(model):
            if name in chosen:
                rounded[name] = grids.nearest(lm.own_weights(model)[name], chosen[name])
        lm.save(out, model, inputs["student"], rounded, chosen)
    return told(model, chosen)


def calibration(inputs: dict[str, Path], config: CalibrationConfig, seed: int) -> Tensor:
    """Blocks of training text [calibration_blocks, calibration_length]."""
    texts = [row["text"] for row in data.read_rows(inputs["data"], "train")]
    tokenizer = lm.load_tokenizer(inputs["student"])
    return text.blocks(tokenizer, texts, config.calibration_length, config.calibration_blocks, seed)


def check_finite(model: nn.Module) -> None:
    """ShrinkError when a weight is not a number, which would spread through everything behind it."""
    for name, weight in lm.own_weights(model).items():
        if not torch.isfinite(weight).all():
            raise ShrinkError(f"the weight {name} holds numbers that are not finite: give a model that is whole.")


def tables(model: Any) -> list[str]:
    """The names of the embedding's weight and, where it is not the same, the output head's."""
    found = []
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        same = part.weight.data_ptr()
        found += [name for name, weight in lm.own_weights(model).items() if weight.data_ptr() == same]
    return sorted(set(found))


def linears(model: Any) -> dict[str, nn.Module]:
    """The linear layers that lie in the decoder's layers, by the name of their weight."""
    known = {id(one) for layer in walk.layers_of(model) for one in walk.linears_of(layer).values()}
    return {f"{name}.weight": one for name, one in model.named_modules() if id(one) in known}


def wanted(model: Any, config: RoundingConfig) -> Grids:
    """Each weight's grid as the config says it; ShrinkError when an exception fits none."""
    names = dict.fromkeys(linears(model), str(config.grid))
    names |= dict.fromkeys(tables(model), config.embedding or "q8_0")
    for pattern, name in config.exceptions.items():
        fitting = [weight for weight in names if fits(weight, pattern)]
        if not fitting:
            some = ", ".join(weight.removesuffix(".weight") for weight in list(names)[:3])
            raise ShrinkError(f"exceptions names '{pattern}', which no layer is called: there are {some} and others.")
        names |= dict.fromkeys(fitting, name)
    return {weight: grids.named(name) for weight, name in names.items() if name != choices.KEPT}


def fits(weight: str, pattern: str) -> bool:
    """Whether a pattern means the weight: by its layer's whole name, or the end of it."""
    name = weight.removesuffix(".weight")
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def check_groups(model: Any, chosen: Grids) -> None:
    """ShrinkError when a weight's rows are no whole number of its grid's groups."""
    inside = linears(model)
    for name, grid in chosen.items():
        width = (walk.weight_of(inside[name]) if name in inside else lm.own_weights(model)[name]).shape[1]
        if width % grid.group:
            good = ", ".join(str(size) for size in (16, 32, 48, 64, 96, 128, 256) if width % size == 0)
            remedy = f"groups of {good} do" if good else "leave it out by exceptions: {it: none}"
            raise ShrinkError(
                f"{name.removesuffix('.weight')} has {width} inputs, which groups of {grid.group} ({grid.name}) do not "
                f"divide: {remedy}."
            )


def layers(
    model: Any, ids: Tensor | None, batch: int, chosen: Grids, method: Method, at: tuple[Path, str]
) -> dict[str, Rounded]:
    """Round every layer in place, keeping each as it is stored; all stored weights by name."""
    names = {id(one): name for name, one in model.named_modules()}

    def change(index: int, layer: nn.Module, sums: walk.Sums | None) -> None:
        prefix = names[id(layer)]
        own = {name: chosen[full] for name in walk.linears_of(layer) if (full := f"{prefix}.{name}.weight") in chosen}
        done = method(layer, sums, own)
        kept = {name: value for name, value in layer.state_dict().items() if name.removesuffix(".weight") not in done}
        for name, one in done.items():
            walk.put(layer.get_submodule(name), one.value())
            kept |= {f"{name}.weight.{part}": value for part, value in one._asdict().items()}
        checkpoint.keep_part(at, f"layer{index}", kept)

    def known(index: int, layer: nn.Module) -> bool:
        kept = checkpoint.part(at, f"layer{index}")
        if kept is not None:
            done = stored(kept)
            for name, one in done.items():
                walk.put(layer.get_submodule(name.removesuffix(".weight")), one.value())
            plain = {name: value for name, value in kept.items() if name in layer.state_dict()}
            layer.load_state_dict(plain, strict=False)
        return kept is not None

    found = walk.layers_of(model)
    if ids is not None:
        walk.walk(model, ids, change, known, batch)
    else:
        for index, layer in enumerate(found):
            if not known(index, layer):
                change(index, layer, None)
            progress.report(index + 1, len(found), "layers")
    rounded: dict[str, Rounded] = {}
    for index, layer in enumerate(found):
        kept = checkpoint.part(at, f"layer{index}") or {}
        rounded |= {f"{names[id(layer)]}.{name}": one for name, one in stored(kept).items()}
    return rounded


def stored(kept: dict[str, Tensor]) -> dict[str, Rounded]:
    """The rounded weights among a layer's kept tensors."""
    names = [name.removesuffix(".codes") for name in kept if name.endswith(".codes")]
    return {name: Rounded(*(kept[f"{name}.{part}"] for part in Rounded._fields)) for name in names}


def told(model: nn.Module, chosen: Grids) -> dict[str, Any]:
    """Bits per weight over all of them, and how many weights lie on each grid."""
    sizes: dict[str, int] = {}
    for name, weight in lm.own_weights(model).items():
        kind = chosen[name].name if name in chosen else choices.KEPT
        sizes[kind] = sizes.get(kind, 0) + weight.numel()
    return {"bits_per_weight": lm.bits_per_weight(model, chosen), "weights": dict(sorted(sizes.items()))}
