"""Export a language model as compressed-tensors: its integers, as transformers and vLLM load them.

An extra (`pip install 'shrinking-frontier[compressed-tensors]'`). What was rounded to integers keeps them: packed into
words, or, of a model whose inputs are rounded, too (`model: w8a8`), a byte each. An embedding, which the format keeps
whole, and other matrices become half precision. vLLM, on a GPU, was not tried; its kernels are for 4 and 8 bits.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task
from tasks import extras, layout, progress

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.generate.grids import Grid, Rounded

PACKED, BYTES = "pack-quantized", "int-quantized"
EIGHT: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True}
ROWS, TOKENS = EIGHT | {"strategy": "channel"}, EIGHT | {"strategy": "token", "dynamic": True}


class CompressedTensorsConfig(BaseModel):
    """The student, or what w8a8 made of it, as transformers loads it, beside what is served and judged, which is the
    recipe's other export; it lies in `out` of this stage's directory in .shrink/runs.
    """

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    writes: ClassVar[tuple[str, str]] = ("compressed_tensors", "compressed_tensors")
    needs: ClassVar[tuple[str, ...]] = ("compressed_tensors",)
    kind: Literal["export"] = Field("export", description="The stage's kind.")
    method: Literal["compressed_tensors"] = Field("compressed_tensors", description="The export format.")
    model: Literal["student", "w8a8"] = Field(
        default="student", description="What is exported: the rounded student, or what quantize/w8a8 left beside it."
    )

    @property
    def reads(self) -> dict[str, str]:
        """The model."""
        return {self.model: "w8a8" if self.model == "w8a8" else "lm"}


def run(inputs: dict[str, Path], config: CompressedTensorsConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the model in transformers' layout; measured: bytes of the weights, weights that are packed.

    Raises ShrinkError where nothing is rounded, or linear layers lie on a grid that the format does not know.
    """
    from safetensors.torch import save_file
    from transformers import AutoConfig

    from tasks.generate import families, lm, w8a8_model

    extras.require("compressed_tensors")
    source, eight = inputs[config.model], config.model == "w8a8"
    rounded, grids = w8a8_model.integers(source) if eight else lm.integers(source)
    if reason := families.unpacked(str(layout.read_json(source / "config.json").get("model_type"))):
        raise ShrinkError(reason)
    inside = [name for name in rounded if ".layers." in name]
    if not inside:
        raise ShrinkError("no layer of the student is rounded: put a quantize stage before this export.")
    groups = {name: ROWS if eight else described(name, grids[name]) for name in inside}
    model = lm.load(source)
    tensors: dict[str, Tensor] = {}
    for number, (name, value) in enumerate(lm.own_weights(model).items()):
        progress.report(number, len(grids), "weights")
        if name not in groups:
            tensors[name] = halved(name, value)
        else:
            tensors |= rows(name, rounded[name]) if eight else packed(name, rounded[name], grids[name])
    save_file(dict(sorted(tensors.items())), out / "model.safetensors", metadata={"format": "pt"})
    for name in lm.TOKENIZER:
        if (source / name).is_file():
            (out / name).write_bytes((source / name).read_bytes())
    about = AutoConfig.from_pretrained(source).to_dict()
    about |= {"dtype": "float16", "quantization_config": settings(groups, ignored(model, groups), eight)}
    (out / "config.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    weights = sum(rounded[name].codes.numel() for name in inside)
    return {"weights_bytes": (out / "model.safetensors").stat().st_size, "packed_weights": weights}


def described(name: str, grid: "Grid") -> dict[str, Any]:
    """A grid as the format's weights scheme; ShrinkError for one that is none of its integers."""
    bits = (grid.high - grid.low).bit_length()
    if grid.zero == "free":
        raise ShrinkError(
            f"{name.removesuffix('.weight')} lies on {grid.name}, which compressed-tensors does not know: quantize to "
            "q4_0, q5_0, q8_0, or integers such as int4_g64."
        )
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": grid.zero != "integer",
        "strategy": "group",
        "group_size": grid.group,
    }


def packed(name: str, one: "Rounded", grid: "Grid") -> "dict[str, Tensor]":
    """A rounded weight as the format's tensors: words, scales, the shape and, unless symmetric, zeros."""
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    bits, base = described(name, grid)["num_bits"], name.removesuffix(".weight")
    found = {
        f"{base}.weight_packed": pack_to_int32(one.codes, bits),
        f"{base}.weight_scale": one.scale.half().contiguous(),
        f"{base}.weight_shape": torch.tensor(one.codes.shape),
    }
    if grid.zero == "integer":
        zeros = (-one.shift.float() / one.scale.half().float()).round().to(torch.int8)
        found[f"{base}.weight_zero_point"] = pack_to_int32(zeros, bits, packed_dim=0).contiguous()
    return found


def rows(name: str, one: "Rounded") -> "dict[str, Tensor]":
    """A weight rounded by rows as the format's tensors: a byte a weight, and scales [outputs, 1]."""
    base = name.removesuffix(".weight")
    return {name: one.codes.contiguous(), f"{base}.weight_scale": one.scale.half().contiguous()}


def halved(name: str, value: "Tensor") -> "Tensor":
    """A plain weight in half precision, vectors too."""
    import torch

    found = value.detach().half().contiguous()
    if not torch.isfinite(found).all():
        raise ShrinkError(f"the weight '{name}' is too large for half precision: export to GGUF with plain: f32.")
    return found


def ignored(model: Any, groups: dict[str, Any]) -> list[str]:
    """Linear layers that are not packed, which the format wants named."""
    from torch import nn

    return [
        name for name, one in model.named_modules() if isinstance(one, nn.Linear) and f"{name}.weight" not in groups
    ]


def settings(groups: dict[str, dict[str, Any]], left: list[str], eight: bool) -> dict[str, Any]:
    """The quantization_config of config.json: a group for each scheme with the layers that it is of.

    `eight`: what they read is rounded to 8 bits when it comes, too.
    """
    schemes: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for name, scheme in groups.items():
        schemes.setdefault(json.dumps(scheme), (scheme, []))[1].append(name.removesuffix(".weight"))
    return {
        "quant_method": "compressed-tensors",
        "format": BYTES if eight else PACKED,
        "quantization_status": "compressed",
        "ignore": left,
        "config_groups": {
            f"group_{number}": {"targets": sorted(names), "weights": scheme}
            | ({"input_activations": TOKENS} if eight else {})
            for number, (scheme, names) in enumerate(schemes.values())
        },
    }


def load(directory: Path) -> Any:
    """The model of such a folder by transformers and compressed-tensors themselves, in float32 and eval mode."""
    import torch
    from transformers import AutoModelForCausalLM

    extras.require("compressed_tensors")
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
