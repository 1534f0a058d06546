"""Takes an encoder up as the teacher of an embedding recipe: as it is, its pooled vectors at length 1, no training."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task

POOLING = Path("1_Pooling") / "config.json"  # where sentence-transformers says how tokens are pooled


class AdoptConfig(BaseModel):
    """What of the encoder is taken up."""

    model_config = STRICT
    kind: Literal["adopt"] = "adopt"
    method: Literal["encoder"] = Field("encoder", description="An encoder, its vectors pooled.")
    tasks: ClassVar[tuple[Task, ...]] = ("embed",)
    reads: ClassVar[dict[str, str]] = {"teacher": "torch|source", "data": "rows"}
    writes: ClassVar[tuple[str, str]] = ("teacher", "torch")
    keep_layers: int | None = Field(default=None, ge=1, description="Keep only the bottom layers (smoke runs).")


def run(inputs: dict[str, Path], config: AdoptConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the encoder as an embedding model; measured: its parameters and the width of its vectors."""
    from tasks import data, layout, models

    folder = layout.find_model(inputs["teacher"])
    check_pooling(folder)
    model = models.Classifier(models.load_encoder(folder), labels=0)
    length, limit = data.read_facts(inputs["data"])["max_length"], int(model.config.max_position_embeddings)
    if length > limit:
        raise ShrinkError(f"max_length is {length} but the teacher reads {limit} tokens: lower it.")
    if config.keep_layers is not None:
        models.keep_layers(model, list(range(min(config.keep_layers, len(model.layers)))))
    head = models.Head(task="embed", labels=(), max_length=length)
    models.save(out, model, models.load_tokenizer(folder, length), head)
    return {"parameters": models.count_parameters(model), "width": model.head.in_features}


def check_pooling(folder: Path) -> None:
    """ShrinkError when the folder says, as sentence-transformers does, that its vectors are no mean over tokens."""
    from tasks import layout

    if not (folder / POOLING).is_file():
        return
    said = layout.read_json(folder / POOLING)
    chosen = sorted(key for key, value in said.items() if key.startswith("pooling_mode_") and value is True)
    if chosen and chosen != ["pooling_mode_mean_tokens"]:
        names = ", ".join(name.removeprefix("pooling_mode_") for name in chosen)
        raise ShrinkError(f"the teacher pools by {names} but only mean_tokens is supported: choose another encoder.")
