"""The teacher's answers on the train and transfer texts, computed once for all students.

A second, weaker teacher (the floor) may be mixed in for two labels: its out-of-fold decision values add to the
teacher's margin, which helps where the teacher has merely memorised its train rows.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError

if TYPE_CHECKING:
    from torch import Tensor


class LabelConfig(BaseModel):
    """What the teacher labels, and how much the floor says."""

    model_config = STRICT
    kind: Literal["label"] = "label"
    reads: ClassVar[dict[str, str]] = {"teacher": "torch", "data": "rows", "floor": "floor"}
    writes: ClassVar[tuple[str, str]] = ("labels", "labels")
    second_teacher: float = Field(default=0.0, ge=0, description="Weight of the floor's decision value (two labels).")
    transfer: bool = Field(default=True, description="Label the transfer texts too.")


def run(inputs: dict[str, Path], config: LabelConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write logits.safetensors and hidden.safetensors; measured: rows and the labels' accuracy on train.

    An embedding teacher has no logits; its vectors of validation texts are kept too, to look at, not to learn from.
    """
    from safetensors.torch import load_file, save_file

    from tasks import data, models, train

    model, tokenizer, head = models.load(inputs["teacher"])
    if config.second_teacher and (model.head.out_features != 2 or head.multi_label):
        raise ShrinkError("second_teacher works with two labels only, one a row: set it to 0.")
    floor = load_file(inputs["floor"] / "logits.safetensors") if config.second_teacher else {}
    embed = not model.head.out_features
    names = ("train", *(("transfer",) if config.transfer else ()), *(("validation",) if embed else ()))
    logits: dict[str, Tensor] = {}
    hidden: dict[str, Tensor] = {}
    measured: dict[str, Any] = {}
    for name in names:
        rows = data.read_rows(inputs["data"], name)
        answer, pooled = train.predict(model, train.tokenize(tokenizer, [row["text"] for row in rows]))
        if config.second_teacher:
            answer = mix_margins(answer, _floor_values(floor, name, len(rows)), config.second_teacher)
        logits[name], hidden[name] = answer.contiguous(), pooled.half().contiguous()
        measured[f"{name}_rows"] = len(rows)
        if name == "train" and not embed:
            measured["train_accuracy"] = train.accuracy(answer, [row["label"] for row in rows])
    if not embed:
        save_file(logits, out / "logits.safetensors")
    save_file(hidden, out / "hidden.safetensors")
    return measured


def mix_margins(logits: "Tensor", decision: "Tensor", weight: float) -> "Tensor":
    """Two-label logits [n, 2] whose margin is the teacher's plus weight times the floor's decision value [n]."""
    import torch

    margin = logits[:, 1] - logits[:, 0] + weight * decision.to(logits.dtype)
    return torch.stack([-margin / 2, margin / 2], dim=1)


def _floor_values(floor: "dict[str, Tensor]", name: str, count: int) -> "Tensor":
    values = floor.get(name)
    if values is None or tuple(values.shape) != (count,):
        raise ShrinkError(f"second_teacher needs the floor's {name} values for {count} rows: run floor on this data.")
    return values
