"""Fresh small students of other shapes, with random weights: a distil stage behind teaches them what they know.

DistilBERT (Sanh et al. 2019, arXiv 1910.01108), MobileBERT's bottlenecks (Sun et al. 2020, arXiv 2004.02984) and
SqueezeBERT's grouped convolutions (Iandola et al. 2020, arXiv 2006.11316), built by transformers' own classes, and a
BERT that is narrow and deep (Turc et al. 2019, arXiv 1908.08962, compare such shapes). Those papers train them on large
text first; here they begin with nothing and see the recipe's own texts alone.
The student has the tokenizer, the labels and the longest input of the one whose place it takes.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from registry.records import STRICT, ShrinkError
from tasks import architectures


class StudentConfig(BaseModel):
    """The sizes that all students have."""

    model_config = ConfigDict(**STRICT, validate_default=True)
    kind: Literal["student"] = "student"
    reads: ClassVar[dict[str, str]] = {"student": "torch"}
    writes: ClassVar[tuple[str, str]] = ("student", "torch")
    layers: int = Field(default=3, ge=1, description="Layers.")
    heads: int = Field(default=4, ge=1, description="Attention heads; divides the width that attention has.")
    width: int = Field(default=256, ge=1, description="Hidden width.")
    ffn: int = Field(default=1024, ge=1, description="Feed-forward neurons of a layer.")

    @field_validator("width")
    @classmethod
    def divided(cls, width: int, info: ValidationInfo) -> int:
        """Heads share the width evenly."""
        heads = info.data.get("heads", 1)
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide it")
        return width


class StudentDistilbertConfig(StudentConfig):
    """Few layers as wide as usual."""

    method: Literal["distilbert"] = "distilbert"


class StudentNarrowConfig(StudentConfig):
    """Many narrow layers."""

    method: Literal["narrow"] = "narrow"
    layers: int = Field(default=12, ge=1, description="Layers.")
    width: int = Field(default=128, ge=1, description="Hidden width.")
    ffn: int = Field(default=512, ge=1, description="Feed-forward neurons of a layer.")


class StudentMobilebertConfig(StudentConfig):
    """Layers that work inside a bottleneck narrower than what goes from layer to layer."""

    method: Literal["mobilebert"] = "mobilebert"
    layers: int = Field(default=6, ge=1, description="Layers.")
    ffn: int = Field(default=256, ge=1, description="Neurons of each feed-forward part of a layer.")
    bottleneck: int = Field(default=64, ge=1, description="Width inside a layer.")
    embedding: int = Field(default=64, ge=1, description="Width of the word embedding, of which three neighbours join.")
    feed_forwards: int = Field(default=2, ge=1, description="Feed-forward parts of a layer.")

    @field_validator("bottleneck")
    @classmethod
    def shared(cls, bottleneck: int, info: ValidationInfo) -> int:
        """Heads share the bottleneck evenly."""
        heads = info.data.get("heads", 1)
        if bottleneck % heads:
            raise ValueError(f"heads = {heads} does not divide it")
        return bottleneck


class StudentSqueezebertConfig(StudentConfig):
    """Grouped convolutions over single tokens in the place of products."""

    method: Literal["squeezebert"] = "squeezebert"
    groups: int = Field(default=4, ge=1, description="Groups of the convolutions; divides width and ffn.")

    @field_validator("groups")
    @classmethod
    def fitting(cls, groups: int, info: ValidationInfo) -> int:
        """Each group has as many channels as another."""
        for name in ("width", "ffn"):
            if info.data.get(name, 0) % groups:
                raise ValueError(f"it does not divide {name} = {info.data[name]}")
        return groups


StudentMethods = StudentDistilbertConfig | StudentMobilebertConfig | StudentSqueezebertConfig | StudentNarrowConfig


def run(inputs: dict[str, Path], config: StudentMethods, out: Path, seed: int) -> dict[str, Any]:
    """Write an untrained student; measured: its parameters and those of the model whose place it takes."""
    import torch
    from transformers import AutoConfig

    from tasks import encoders, models, train

    before, tokenizer, head = models.load(inputs["student"])
    facts = {
        "vocab_size": before.table.num_embeddings,
        "pad_token_id": train.pad_of(before),
        "max_position_embeddings": head.max_length,
    }
    check_padding(config, facts["pad_token_id"], "student/mobilebert")
    torch.manual_seed(seed)
    shape = described(config, facts)
    encoder = encoders.build(AutoConfig.for_model(**shape))
    model = models.Classifier(encoder, len(head.labels))
    if head.labels:
        torch.nn.init.normal_(model.head.weight, std=0.02)
        torch.nn.init.zeros_(model.head.bias)
    models.save(out, model, tokenizer, head)
    counts = {"parameters_before": models.count_parameters(before), "parameters": models.count_parameters(model)}
    return counts


def check_padding(config: StudentMethods, pad: int, where: str) -> None:
    """ShrinkError when this student cannot pad as the tokenizer does."""
    if config.method == "mobilebert" and pad != 0:
        raise ShrinkError(
            f"{where}: a MobileBERT pads with piece 0 but this tokenizer with {pad}: take another method."
        )


def described(config: StudentMethods, facts: dict[str, int]) -> dict[str, Any]:
    """The config.json of a student; `facts` are its vocabulary, padding token and longest input."""
    own: dict[str, Any] = {}
    match config:
        case StudentMobilebertConfig():
            own = {
                "embedding_size": config.embedding,
                "intra_bottleneck_size": config.bottleneck,
                "num_feedforward_networks": config.feed_forwards,
                "normalization_type": "layer_norm",  # the paper's students without norms copy a teacher that has them
            }
        case StudentSqueezebertConfig():
            own = {f"{name}_groups": config.groups for name in ("q", "k", "v", "intermediate", "output")}
            own["embedding_size"] = config.width
    sizes = {
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
    }
    kind = {"model_type": architecture(config)}
    return kind | {architectures.named(kind, name): size for name, size in sizes.items()} | own | facts


def architecture(config: StudentMethods) -> str:
    """The model_type of a student."""
    return "bert" if config.method == "narrow" else config.method
