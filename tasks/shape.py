"""An encoder as its config.json describes it: what it weighs and what it computes, before it exists. No torch.

The weights are those that tasks/architectures.py names, counted exactly; a cut changes the configuration as the stage
that makes it does.
"""

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from registry.records import STRICT
from tasks import architectures, layout

WIDENING = (  # products beside the layers
    *("embeddings_project.", "embeddings.embedding_transformation.", "encoder.embedding_hidden_mapping_in."),
    "embeddings.word_embeddings.expand.",
)


class Shape(BaseModel):
    """An encoder's configuration (as in config.json) and the labels of its head (0: it has none)."""

    model_config = STRICT
    config: dict[str, Any]
    labels: int = 0

    @property
    def tensors(self) -> dict[str, list[int]]:
        """{weight: shape} of the encoder."""
        return architectures.wanted_shapes(self.config)

    @property
    def letters(self) -> dict[str, int]:
        """The sizes by the letters of tasks/architectures.py."""
        return architectures.letters(self.config)

    @property
    def layers(self) -> int:
        """How many layers a text goes through."""
        return int(architectures.value(self.config, "num_hidden_layers"))

    @property
    def width(self) -> int:
        """Columns of what the layers pass on."""
        return self.letters["d"]

    @property
    def inner(self) -> int:
        """Columns of a layer's queries."""
        return self.letters["i"]

    @property
    def ffn(self) -> int:
        """Feed-forward neurons of a layer."""
        return self.letters["f"]

    @property
    def positions(self) -> int:
        """Rows of the position table, or the longest input where there is none."""
        return self.letters["p"]

    @property
    def rows(self) -> tuple[int, int]:
        """Rows and columns of the word embedding's table (its first factor, where it has two)."""
        return self.letters["v"], self.letters["rank"] or self.letters["e"]

    @property
    def table(self) -> int:
        """Weights of the word embedding's table."""
        return math.prod(self.rows)

    @property
    def matrices(self) -> list[list[int]]:
        """The weights of all products: those of the layers, and what widens embeddings."""
        stack = architectures.STACKS.get(str(self.config["model_type"]), "encoder.layer")
        inside = (f"{stack}.", *WIDENING)
        return [one for name, one in self.tensors.items() if len(one) > 1 and name.startswith(inside)]

    @property
    def products(self) -> int:
        """Weights of the products of a pass, without biases: multiply-adds a token; shared layers count each time."""
        return (self.layers if self.config["model_type"] == "albert" else 1) * sum(map(math.prod, self.matrices))

    @property
    def parameters(self) -> int:
        """All weights, the head included."""
        return sum(math.prod(shape) for shape in self.tensors.values()) + self.labels * (self.width + 1)

    def macs(self, tokens: float, squares: float) -> float:
        """Multiply-adds of a forward pass over texts with this sum of lengths and this sum of squared lengths."""
        return self.products * tokens + 2 * self.layers * self.inner * squares

    def cut_positions(self, count: int) -> "Shape":
        """The shape that reads texts of at most `count` tokens, where it has a table of positions to cut."""
        if not any("position" in name and shape[0] == self.positions for name, shape in self.tensors.items()):
            return self
        return self.cut(max_position_embeddings=min(self.positions, count + architectures.offset(self.config)))

    def cut(self, **fields: Any) -> "Shape":
        """The shape with fields of its configuration changed, by the names that BERT has for them."""
        changed = {architectures.named(self.config, name): value for name, value in fields.items()}
        return self.model_copy(update={"config": self.config | changed})

    def with_labels(self, labels: int) -> "Shape":
        """The shape with a head of so many labels."""
        return self.model_copy(update={"labels": labels})


def of_files(folder: Path) -> Shape:
    """The shape that a model folder's config.json describes."""
    return Shape(config=layout.read_json(folder / "config.json"))
