"""Rounds a decoder: which weight takes which grid, layer by layer, and what is then written and counted.

A layer that is done is kept beside the stage as it is stored (tasks/checkpoint.py), so that a killed stage goes on
behind it with the same result; only one layer's sums and one layer's integers are in memory beside the model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from registry.records import ShrinkError
from tasks import checkpoint, data, progress
from tasks.generate import choices, grids, heads, lesson, lm, sensitivity, text, walk
from tasks.generate.choices import CalibrationConfig, RoundingConfig
from tasks.generate.grids import Grid, Rounded

Grids = dict[str, Grid]  # by name of a weight; one that is not there stays as it is
Place = tuple[Path, str]  # where finished parts are kept, and their key
# of a layer, the grids by name inside of it, its inputs' sums and what it gives (none without text): rounded weights
Method = Callable[[nn.Module, Grids, walk.Sums | None, walk.Give | None], dict[str, Rounded]]
Table = Callable[[Tensor, Tensor | None, Grid], Rounded]  # of an embedding or head, with the sums of what a head reads


def run(
    inputs: dict[str, Path],
    config: RoundingConfig,
    out: Path,
    seed: int,
    method: Method,
    table: Table,
    needs_text: bool = True,
) -> dict[str, Any]:
    """Write the student rounded by a method, which may do without text; measured: see `told`."""
    model = lm.load(inputs["student"])
    check_finite(model)
    ids = calibration(inputs, config, seed, model) if needs_text or config.target is not None else None
    with checkpoint.parts() as at:
        chosen, foretold = wanted(model, config, ids, (method, table), at, seed)
        check_groups(model, chosen)
        round_tables(model, ids if needs_text else None, chosen, table, at)
        walk.give_back()
        round_layers(model, ids if needs_text else None, config.batch, chosen, method, at)
        measured, count = told(model, chosen) | foretold, len(walk.layers_of(model))
        plain = {name: value for name, value in lm.own_weights(model).items() if name not in chosen}
        described = model.config
        del model
        walk.give_back()  # the integers are read in the place of the numbers that they stand for, not beside them
        lm.write(out, described, inputs["student"], plain, kept_parts(at, count), chosen)
    return measured


def calibration(inputs: dict[str, Path], config: CalibrationConfig, seed: int, model: Any) -> Tensor:
    """Blocks of training text [calibration_blocks, calibration_length] that the model can read."""
    lesson.check_length(model, config.calibration_length, "calibration_length")
    texts = [row["text"] for row in data.read_rows(inputs["data"], "train")]
    tokenizer = lm.load_tokenizer(inputs["student"])
    return text.blocks(tokenizer, texts, config.calibration_length, config.calibration_blocks, seed)


def check_finite(model: nn.Module) -> None:
    """ShrinkError when a weight is not a number, which would spread through everything behind it."""
    for name, weight in lm.own_weights(model).items():
        if not torch.isfinite(torch.stack(torch.aminmax(weight))).all():
            raise ShrinkError(f"the weight {name} holds numbers that are not finite: give a model that is whole.")


def linears(model: Any) -> dict[str, nn.Module]:
    """The linear layers that lie in the decoder's layers, by the name of their weight."""
    known = {id(one) for layer in walk.layers_of(model) for one in walk.linears_of(layer).values()}
    return {f"{name}.weight": one for name, one in model.named_modules() if id(one) in known}


def wanted(
    model: Any, config: RoundingConfig, ids: Tensor | None, by: tuple[Method, Table], at: Place, seed: int
) -> tuple[Grids, dict[str, Any]]:
    """Each weight's grid as the config says it, or as its target buys it, and the divergence that this was foretold."""
    names: dict[str, str | None] = dict.fromkeys(linears(model), config.grid)
    names |= dict.fromkeys(heads.tables_of(model), config.embedding or (None if config.target else "q8_0"))
    for pattern, name in config.exceptions.items():
        fitting = [weight for weight in names if choices.fits(weight, pattern)]
        if not fitting:
            some = ", ".join(weight.removesuffix(".weight") for weight in list(names)[:3])
            raise ShrinkError(f"exceptions names '{pattern}', which no layer is called: there are {some} and others.")
        names |= dict.fromkeys(fitting, name)
    fixed = {weight: grids.named(name) for weight, name in names.items() if name not in (None, choices.KEPT)}
    free = [weight for weight, name in names.items() if name is None]
    if config.target is None:
        return fixed, {}
    assert ids is not None
    check_groups(model, fixed | dict.fromkeys(free, grids.GGUF["q4_0"]))

    def scaled(layer: nn.Module, sums: walk.Sums, give: walk.Give) -> float:
        return relative(by[0], layer, sums, give)

    found, cost = sensitivity.spend(model, ids, free, fixed, config.target, sensitivity.Scaled(scaled, by[1]), at, seed)
    return fixed | found, {"foretold_kl": cost}


def relative(method: Method, layer: nn.Module, sums: walk.Sums, give: walk.Give) -> float:
    """The squared error of a layer's outputs by a method over that by rounding to nearest, both on q4_0.

    What it is judged on is taken out of the sums that the method rounds by, which fits those better than other text.
    """
    grid, linears = grids.GGUF["q4_0"], walk.linears_of(layer)
    judged = walk.read_by(layer, [give])
    others = {name: one - judged[name] for name, one in sums.items()}
    if all(float(one.diagonal().sum()) > 0.1 * float(sums[name].diagonal().sum()) for name, one in others.items()):
        sums = others
    kept, whole, errors = {name: one.clone() for name, one in layer.state_dict().items()}, give(), list[float]()
    chosen = {name: grid for name, one in linears.items() if walk.weight_of(one).shape[1] % grid.group == 0}
    for by in (method, nearest):
        for name, rounded in by(layer, chosen, sums, give).items():
            walk.put(linears[name], rounded.value())
        errors.append(float((give() - whole).square().sum()))
        layer.load_state_dict(kept)
    return errors[0] / errors[1] if errors[1] else 1.0


def nearest(layer: nn.Module, chosen: Grids, sums: walk.Sums | None, give: walk.Give | None) -> dict[str, Rounded]:
    """A layer's weights rounded to the nearest, as sensitivities are told."""
    assert sums is not None
    return {
        name: grids.nearest(
            walk.weight_of(walk.linears_of(layer)[name]), grid, grids.importance(sums[name]), sensitivity.PARTS
        )
        for name, grid in chosen.items()
    }


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


def round_tables(model: Any, ids: Tensor | None, chosen: Grids, table: Table, at: Place) -> None:
    """Round embedding and head, keeping them as they are stored; by what the head reads, given text.

    The layers are then rounded on what the rounded embedding gives them.
    """
    names = [name for name in heads.tables_of(model) if name in chosen]
    kept = checkpoint.part(at, "tables")
    if kept is None:
        sums = heads.head_sums(model, ids) if ids is not None and names else None
        weights, head = lm.own_weights(model), heads.head_of(model)
        kept = split({name: table(weights[name], sums if name == head else None, chosen[name]) for name in names})
        checkpoint.keep_part(at, "tables", kept)
    with torch.no_grad():
        for name, one in stored(kept).items():
            heads.replace(lm.own_weights(model)[name], one)


def round_layers(
    model: Any,
    ids: Tensor | None,
    batch: int,
    chosen: Grids,
    method: Method,
    at: Place,
    measure: walk.Measure = walk.sums,
) -> None:
    """Round every layer in place, keeping each as it is stored; a method gets what is measured of its inputs."""
    names = {id(one): name for name, one in model.named_modules()}

    def change(index: int, layer: nn.Module, sums: walk.Sums | None, give: walk.Give | None) -> None:
        prefix = names[id(layer)]
        own = {name: chosen[full] for name in walk.linears_of(layer) if (full := f"{prefix}.{name}.weight") in chosen}
        done = method(layer, own, sums, give)
        for name, one in done.items():
            walk.put(layer.get_submodule(name), one.value())
        kept = split({f"{prefix}.{name}.weight": one for name, one in done.items()})
        for name, value in layer.state_dict().items():
            if name.removesuffix(".weight") not in done:
                kept[f"{prefix}.{name}"] = value
        checkpoint.keep_part(at, f"layer{index}", kept)

    def known(index: int, layer: nn.Module) -> bool:
        kept = checkpoint.part(at, f"layer{index}")
        if kept is not None:
            prefix = f"{names[id(layer)]}."
            for name, one in stored(kept).items():
                walk.put(layer.get_submodule(name.removeprefix(prefix).removesuffix(".weight")), one.value())
            own = layer.state_dict()
            plain = {part: value for name, value in kept.items() if (part := name.removeprefix(prefix)) in own}
            layer.load_state_dict(plain, strict=False)
        return kept is not None

    if ids is not None:
        walk.walk(model, ids, change, known, batch, measure)
        return
    found = walk.layers_of(model)
    for index, layer in enumerate(found):
        if not known(index, layer):
            change(index, layer, None, None)
        progress.report(index + 1, len(found), "layers")


def kept_parts(at: Place, layers: int) -> dict[str, Rounded]:
    """All rounded weights of the parts that were kept, by name."""
    rounded: dict[str, Rounded] = {}
    for name in ("tables", *(f"layer{index}" for index in range(layers))):
        rounded |= stored(checkpoint.part(at, name) or {})
    return rounded


def split(rounded: dict[str, Rounded]) -> dict[str, Tensor]:
    """Rounded weights as tensors by name: W.codes, W.scale and W.shift of each."""
    return {f"{name}.{part}": value for name, one in rounded.items() for part, value in one._asdict().items()}


def stored(kept: dict[str, Tensor]) -> dict[str, Rounded]:
    """The rounded weights among kept tensors."""
    names = [name.removesuffix(".codes") for name in kept if name.endswith(".codes")]
    return {name: Rounded(*(kept[f"{name}.{part}"] for part in Rounded._fields)) for name in names}


def told(model: nn.Module, chosen: Grids) -> dict[str, Any]:
    """bits_per_weight over all of them; weights: how many lie on each grid."""
    sizes: dict[str, int] = {}
    for name, weight in lm.own_weights(model).items():
        kind = chosen[name].name if name in chosen else choices.KEPT
        sizes[kind] = sizes.get(kind, 0) + weight.numel()
    return {"bits_per_weight": lm.bits_per_weight(model, chosen), "weights": dict(sorted(sizes.items()))}
