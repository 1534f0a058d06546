"""Distillation of hidden states: what chosen layers of the teacher make of each token, beside its cached answers.

TinyBERT (Jiao et al. 2020, "TinyBERT: Distilling BERT for natural language understanding", arXiv 1909.10351): the mean
squared error between hidden states, embeddings included; where the student is narrower, one learned matrix for the
embeddings and one for all layers lead into the teacher's space, and are thrown away. PKD (Sun et al. 2019, "Patient
knowledge distillation for BERT model compression", arXiv 1908.09355): the same between vectors of length 1.

Without a map, layer m of the student's M learns from layer ceil(m N / M) of the teacher's N, the last from the last.
The mean over the pairs counts, where the papers sum, so that the weight means the same for every depth. Hidden states
are too large to keep, so the teacher runs in every step.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from registry.records import ShrinkError
from tasks import teachers
from tasks.distill import alongside, answers
from tasks.distill.answers import AnswersConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

LayerMap = dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class DistillHiddenConfig(AnswersConfig):
    """How long and by which losses the student learns, the teacher's hidden states among them."""

    method: Literal["hidden"] = "hidden"
    teacher: teachers.Maker = Field(default=teachers.MAIN, description="Which teacher runs along, by its name.")
    states_weight: float = Field(
        default=1.0, gt=0, le=1000, description="Weight of the distance between the hidden states."
    )
    normalised: bool = Field(default=False, description="Compare directions: vectors of length 1 (PKD).")
    embeddings: bool = Field(default=True, description="Learn what the embeddings make of each token, too.")
    layer_map: LayerMap | None = Field(
        default=None, description="{student's layer: teacher's layer}, from 0 at the bottom; none: evenly over all."
    )

    @property
    def reads(self) -> dict[str, str]:
        """Student, the teacher that runs along, labels and data."""
        return {"student": "torch", self.teacher: "torch", "labels": "labels", "data": "rows"}


def run(inputs: dict[str, Path], config: DistillHiddenConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the taught student; measured: as distill/relations, and the pairs of layers."""
    import torch

    from tasks import models
    from tasks.distill import states

    lesson = answers.read(inputs, config)
    guide = alongside.load(inputs[config.teacher], lesson)
    student, teacher = lesson.model, guide.model
    chosen = pairs(config.layer_map, student.depth, teacher.depth)
    places = [(0, 0)] * config.embeddings + [(mine + 1, theirs + 1) for mine, theirs in chosen.items()]
    of_embeddings, of_layers = bridges(student.head.in_features, teacher.head.in_features, seed)

    def loss_of(rows: list[int]) -> "Tensor":
        ids, mask = answers.batch(lesson, rows)
        found = states.states(student, ids, mask)
        with torch.no_grad():  # what inference_mode makes cannot stand in a loss
            wanted = states.states(teacher, guide.numbers[ids], mask)
        total = answers.loss(lesson, config, rows, models.mean_pool(found[-1], mask))
        for mine, theirs in places:
            led = of_layers(found[mine]) if mine else of_embeddings(found[mine])
            apart = states.squared_distance(led, wanted[theirs], mask, config.normalised)
            total = total + config.states_weight / len(places) * apart
        return total

    measured = answers.teach(lesson, config, loss_of, inputs, out, seed, along=(of_embeddings, of_layers))
    return measured | {"respelled_rows": guide.respelled, "layer_map": {str(key): chosen[key] for key in chosen}}


def pairs(given: dict[int, int] | None, student: int, teacher: int) -> dict[int, int]:
    """{student's layer: teacher's layer} for these depths; ShrinkError when a named layer is not there."""
    if given is None:
        return {layer: -(-(layer + 1) * teacher // student) - 1 for layer in range(student)}
    if not given:
        raise ShrinkError("layer_map names no layer: give pairs such as {0: 1, 2: 5}, or leave it out.")
    for name, layers, count in (("student", given.keys(), student), ("teacher", given.values(), teacher)):
        if max(layers) >= count:
            raise ShrinkError(
                f"layer_map names the {name}'s layer {max(layers)} but its last is {count - 1}: correct the map."
            )
    return dict(sorted(given.items()))


def bridges(student: int, teacher: int, seed: int) -> "tuple[nn.Module, nn.Module]":
    """Learned matrices from the student's width to the teacher's, of embeddings and of layers; nothing if equal."""
    import torch
    from torch import nn

    if student == teacher:
        return nn.Identity(), nn.Identity()
    torch.manual_seed(seed)
    return nn.Linear(student, teacher, bias=False), nn.Linear(student, teacher, bias=False)
