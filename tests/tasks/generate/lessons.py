"""Folders of tiny decoders and of documents that can be learnt, as the stages that train find them."""

import json
import random
from pathlib import Path
from typing import Any

from tasks.generate import grids, lm, walk
from tests.tasks.generate.decoders import tiny

WORDS = ("the", "bank", "river", "old", "new", "paper", "said", "that", "of", "a", "city", "year", "was", "in", "more")


def tokenizer_files(folder: Path, words: tuple[str, ...] = WORDS) -> None:
    """A word-level tokenizer of less than 64 pieces, as tokenizer.json and tokenizer_config.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "</s>", "<unk>", *words]
    made = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    whole.save_pretrained(folder)


def folder_of(folder: Path, family: str = "llama", grid: str = "", seed: int = 0, **sizes: Any) -> Path:
    """The folder of a tiny random decoder; its linears rounded to a grid, where one is named, and the table to Q8_0."""
    folder.mkdir(parents=True)
    tokenizer_files(folder)
    model: Any = tiny(family, seed, **sizes)
    rounded, chosen = {}, {}
    if grid:
        inside = {id(one) for layer in walk.layers_of(model) for one in walk.linears_of(layer).values()}
        for name, one in model.named_modules():
            if id(one) in inside:
                chosen[f"{name}.weight"] = grids.GGUF.get(grid) or grids.integer(4, 32, False)
                rounded[f"{name}.weight"] = grids.nearest(walk.weight_of(one), chosen[f"{name}.weight"])
        table = next(name for name, one in model.named_parameters() if one is model.get_input_embeddings().weight)
        chosen[table], rounded[table] = (
            grids.GGUF["q8_0"],
            grids.nearest(model.get_parameter(table), grids.GGUF["q8_0"]),
        )
    lm.save(folder, model, folder, rounded, chosen)
    return folder


def documents(folder: Path, count: int = 40, words: int = 30) -> Path:
    """Documents in which each word mostly says which one comes next, split as the data stage does."""
    folder.mkdir(parents=True)
    drawn = random.Random(3)
    for name in ("train", "validation", "test"):
        lines = []
        for number in range(count):
            at, text = drawn.randrange(len(WORDS)), []
            for _ in range(words):
                text.append(WORDS[at])
                at = (4 * at + 1) % len(WORDS) if drawn.random() < 0.9 else drawn.randrange(len(WORDS))
            lines.append(json.dumps({"id": f"{name}:{number}", "text": " ".join(text)}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "data.json").write_text('{"task": "generate", "max_length": 24}\n', encoding="utf-8")
    return folder
