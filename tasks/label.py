"""The teachers' answers on the train and transfer texts, computed once for all students.

Several teachers may answer, each reading the texts by its own tokenizer; their logits are kept apart, with a share of
each in every row: the recipe's weights, or those times each teacher's confidence in that row (CA-MKD; Zhang, Chen and
Wang 2022, "Confidence-aware multi-teacher knowledge distillation", arXiv 2201.00007). `student` among the teachers
makes the student of an earlier generation one of them (born-again networks; Furlanello et al. 2018, arXiv 1805.04770).

The floor may be mixed in for two labels: its out-of-fold decision values add to each teacher's margin, which helps
where a teacher has merely memorised its train rows.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, Field, model_validator

from registry.records import STRICT, ShrinkError
from tasks.teachers import MAIN, Name

if TYPE_CHECKING:
    from torch import Tensor


class LabelConfig(BaseModel):
    """Who labels, how much each teacher counts, and how much the floor says."""

    model_config = STRICT
    kind: Literal["label"] = "label"
    writes: ClassVar[tuple[str, str]] = ("labels", "labels")
    teachers: dict[Name, float] = Field(
        default={MAIN: 1.0}, description="Weight of each teacher by its name; `student` is one, too."
    )
    confidence: bool = Field(
        default=False, description="Weigh each teacher in each row by how sure it is of the true label (CA-MKD)."
    )
    second_teacher: float = Field(default=0.0, ge=0, description="Weight of the floor's decision value (two labels).")
    transfer: bool = Field(default=True, description="Label the transfer texts too.")

    @model_validator(mode="after")
    def _weighed(self) -> Self:
        if any(weight < 0 for weight in self.teachers.values()) or not sum(self.teachers.values()) > 0:
            raise ValueError(f"teachers is {self.teachers} but needs weights of 0 or more, one above 0")
        if self.confidence and len(self.teachers) < 2:
            raise ValueError("confidence weighs teachers against each other, but teachers names one: name another")
        return self

    @property
    def reads(self) -> dict[str, str]:
        """The named teachers, data and floor."""
        return {**dict.fromkeys(sorted(self.teachers), "torch"), "data": "rows", "floor": "floor"}

    @property
    def pooled_of(self) -> str:
        """Whose pooled vectors are kept: the main teacher's where it answers, else those of the first name."""
        return MAIN if MAIN in self.teachers else min(self.teachers)


class Answers(NamedTuple):
    """What K teachers say of a part of the data: logits [n, K, C] in the order of their names, one's pooled [n, d]."""

    logits: "Tensor"
    pooled: "Tensor"


def run(inputs: dict[str, Path], config: LabelConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write logits.safetensors ([n, C], of several teachers [n, K, C] and shares.safetensors) and hidden.safetensors.

    Measured: rows and the labels' accuracy on train; of several teachers each one's, and how far it is believed.
    An embedding teacher has no logits; its vectors of validation texts are kept too, to look at, not to learn from.
    """
    from safetensors.torch import save_file

    from tasks import data, layout

    embed = not layout.read_json(inputs[config.pooled_of] / "head.json")["labels"]
    if embed and len(config.teachers) > 1:
        raise ShrinkError(f"teachers names {len(config.teachers)}, but vectors of several cannot be mixed: name one.")
    names = ("train", *(("transfer",) if config.transfer else ()), *(("validation",) if embed else ()))
    rows = {name: data.read_rows(inputs["data"], name) for name in names}
    found = asked(inputs, config, {name: [row["text"] for row in part] for name, part in rows.items()})
    save_file({name: one.pooled.half().contiguous() for name, one in found.items()}, out / "hidden.safetensors")
    measured: dict[str, Any] = {f"{name}_rows": len(part) for name, part in rows.items()}
    return measured if embed else measured | mixed(inputs, config, found, rows, out)


def mixed(
    inputs: dict[str, Path], config: LabelConfig, found: dict[str, Answers], rows: dict[str, list[Any]], out: Path
) -> dict[str, Any]:
    """Write the logits, the floor mixed in, and the shares of several teachers; measured: what they are worth."""
    import torch
    from safetensors.torch import load_file, save_file

    from tasks import train

    floor = load_file(inputs["floor"] / "logits.safetensors") if config.second_teacher else {}
    logits = {name: answer.logits for name, answer in found.items()}
    for name, part in logits.items() if config.second_teacher else ():
        values = _floor_values(floor, name, len(part))
        logits[name] = torch.stack([mix_margins(one, values, config.second_teacher) for one in part.unbind(1)], dim=1)
    truth = [row["label"] for row in rows["train"]]
    if len(config.teachers) == 1:
        save_file({name: part[:, 0].contiguous() for name, part in logits.items()}, out / "logits.safetensors")
        return {"train_accuracy": train.accuracy(logits["train"][:, 0], truth)}
    shares = {}
    for name, answer in found.items():
        labels = torch.tensor([row.get("label", -1) for row in rows[name]], dtype=torch.long)
        shares[name] = shares_of(config, answer.logits, labels)
    save_file(logits, out / "logits.safetensors")
    save_file(shares, out / "shares.safetensors")
    chances = (shares["train"][:, :, None] * logits["train"].softmax(-1)).sum(1)
    measured = {"train_accuracy": train.accuracy(chances, truth)}
    return measured | {"teachers": believed(config, logits["train"], shares, truth)}


def asked(inputs: dict[str, Path], config: LabelConfig, texts: dict[str, list[str]]) -> dict[str, Answers]:
    """Every teacher's answers on the texts of each part, each by its own tokenizer; ShrinkError for other labels."""
    import torch

    from tasks import models, train

    logits: dict[str, list[Tensor]] = {part: [] for part in texts}
    pooled: dict[str, Tensor] = {}
    names: tuple[str, ...] = ()
    for name in sorted(config.teachers):
        model, tokenizer, head = models.load(inputs[name])
        if config.second_teacher and (model.head.out_features != 2 or head.multi_label):
            raise ShrinkError("second_teacher works with two labels only, one a row: set it to 0.")
        if head.multi_label and len(config.teachers) > 1:
            raise ShrinkError("several teachers are mixed where a row has one label only: name one in teachers.")
        if names and head.labels != names:
            raise ShrinkError(
                f"{name} knows the labels {head.labels} and another teacher {names}: train both on this data."
            )
        names = head.labels
        for part, lines in texts.items():
            answer, vectors = train.predict(model, train.tokenize(tokenizer, lines))
            logits[part].append(answer)
            if name == config.pooled_of:
                pooled[part] = vectors
    return {part: Answers(torch.stack(found, dim=1), pooled[part]) for part, found in logits.items()}


def shares_of(config: LabelConfig, logits: "Tensor", labels: "Tensor") -> "Tensor":
    """How much each teacher is believed in each row, [n, K] with sum 1, from the logits [n, K, C] and labels [n]."""
    import torch

    from tasks import losses

    static = torch.tensor([weight for _, weight in sorted(config.teachers.items())], dtype=torch.float64)
    shares = static.expand(logits.shape[:2])
    if config.confidence:
        shares = shares * losses.confidence(logits.double(), labels)
    return (shares / shares.sum(1, keepdim=True)).float()


def believed(config: LabelConfig, logits: "Tensor", shares: "dict[str, Tensor]", labels: list[int]) -> dict[str, Any]:
    """Of every teacher its accuracy on train and its mean share in each part."""
    from tasks import train

    found = {}
    for place, name in enumerate(sorted(config.teachers)):
        found[name] = {"train_accuracy": train.accuracy(logits[:, place], labels)}
        found[name] |= {f"{part}_share": float(one[:, place].mean()) for part, one in shares.items() if len(one)}
    return found


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
