"""Takes a decoder up as the teacher of a `generate` recipe: a folder of transformers or one GGUF file, in float32.

A GGUF file is looked through before anything is allocated (tasks/generate/gguf_check.py); its weights are the numbers
that its blocks stand for, so that a file of 4-bit blocks gives a teacher whose weights lie on that grid.
"""

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from registry.records import STRICT, ShrinkError, Task
from tasks import layout

SAMPLES = ("The quick brown fox, in 2024: it's 3.5 %!", "  two lines,\n\tindented; naïve café")  # texts to compare


class AdoptDecoderConfig(BaseModel):
    """What of the decoder is taken up."""

    model_config = STRICT
    tasks: ClassVar[tuple[Task, ...]] = ("generate",)
    reads: ClassVar[dict[str, str]] = {"teacher": "source"}
    writes: ClassVar[tuple[str, str]] = ("teacher", "lm")
    kind: Literal["adopt"] = Field("adopt", description="The stage's kind.")
    method: Literal["decoder"] = Field("decoder", description="A language model that writes.")
    keep_layers: int | None = Field(None, ge=1, description="Keep only the bottom layers (smoke runs).")


def run(inputs: dict[str, Path], config: AdoptDecoderConfig, out: Path, seed: int) -> dict[str, Any]:
    """Write the decoder as an `lm` folder in float32; measured: its parameters, layers and context."""
    model = take(inputs["teacher"], out, config.keep_layers)
    parameters = sum(one.numel() for one in model.parameters())  # a tied head counts once
    return {
        "parameters": parameters,
        "layers": int(model.config.num_hidden_layers),
        "context": int(model.config.max_position_embeddings),
    }


def take(source: Path, out: Path, layers: int | None = None) -> Any:
    """Read the model of a source folder, write it to `out` as an `lm` folder, and return it.

    Raises ShrinkError for a source that holds none, or one with weights that are no numbers.
    """
    import torch

    from tasks.generate import gguf_read, lm, walk

    file = gguf_of(source)
    if file is None:
        check_pieces(source)
    with layout.foreign(f"'{file.name}'" if file is not None else "the model's folder"):
        model, tokenizer = gguf_read.model_and_tokenizer(file) if file is not None else (lm.load(source), None)
    if bad := next((name for name, value in model.state_dict().items() if not torch.isfinite(value).all()), None):
        raise ShrinkError(f"the teacher's weight {bad} is not finite: take a fresh copy of the model.")
    if layers is not None and layers < len(walk.layers_of(model)):
        keep(model, layers)
    out.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        write_tokenizer(tokenizer, out)
    lm.save(out, model, source if file is None else out, {}, {})
    return model


def check_pieces(source: Path) -> None:
    """ShrinkError where transformers reads other tokens than tokenizer.json says: then nothing learnt would be so."""
    from tokenizers import Tokenizer

    from tasks.generate import lm

    said = Tokenizer.from_file(str(source / "tokenizer.json"))
    said.no_padding()
    said.no_truncation()
    read = lm.load_tokenizer(source)
    for text in SAMPLES:
        if list(read(text, add_special_tokens=False)["input_ids"]) != said.encode(text, add_special_tokens=False).ids:
            raise ShrinkError(
                f"tokenizer_class is {type(read).__name__}, with which transformers reads other tokens than "
                "tokenizer.json says: leave it out of tokenizer_config.json, or give the one that it was trained with."
            )


def gguf_of(source: Path) -> Path | None:
    """The one GGUF file of a source folder; none where it is a folder of transformers; ShrinkError for several."""
    files = sorted(source.glob("*.gguf"))
    if len(files) > 1:
        raise ShrinkError(
            f"the teacher's folder has {len(files)} GGUF files ({files[0].name}, …): leave one, or name the file."
        )
    if not files and not (source / "config.json").is_file():
        raise ShrinkError("the teacher's folder has neither a GGUF file nor config.json: name a folder with a model.")
    return files[0] if files else None


def keep(model: Any, layers: int) -> None:
    """Keep the bottom layers of a decoder, in place."""
    from tasks.generate import walk

    del walk.layers_of(model)[layers:]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]


def write_tokenizer(tokenizer: Any, out: Path) -> None:
    """A GGUF file's tokenizer and chat template as transformers keeps them: the files that an `lm` folder has."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    about = {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key not in TRACES}
    path.write_text(json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    for extra in out.iterdir():
        if extra.name not in {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}:
            shutil.rmtree(extra) if extra.is_dir() else extra.unlink()


TRACES = {"name_or_path", "gguf_file", "is_local", "local_files_only"}  # of where it was read
