"""Folders of tiny decoders and of documents, as the stages find them."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.generate import lm
from tests.tasks.generate.decoders import tiny

WORDS = ("the", "bank", "river", "old", "new", "paper", "said", "that", "of", "a", "city", "year", "was", "in", "more")
IDS = torch.randint(3, 18, (4, 24), generator=torch.Generator().manual_seed(5))


def logits(folder: Path) -> Tensor:
    """What the model of a folder says of some tokens."""
    with torch.no_grad():
        found: Tensor = lm.load(folder)(input_ids=IDS, use_cache=False).logits
        return found


def tokenizer_files(folder: Path) -> None:
    """A word-level tokenizer of less than 64 pieces, as tokenizer.json and tokenizer_config.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "</s>", "<unk>", *WORDS]
    made = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    whole.save_pretrained(folder)


def model_folder(folder: Path, family: str = "llama", model: Any = None) -> Path:
    """The folder of a tiny decoder, random or given."""
    folder.mkdir(parents=True)
    tokenizer_files(folder)
    lm.save(folder, tiny(family) if model is None else model, folder, {}, {})
    return folder


def rows_folder(folder: Path, documents: int = 40, words: int = 30) -> Path:
    """Documents of random words, split as the data stage does."""
    folder.mkdir(parents=True)
    drawn = random.Random(3)
    for name in ("train", "validation", "test"):
        lines = [
            json.dumps({"id": f"{name}:{number}", "text": " ".join(drawn.choices(WORDS, k=words))})
            for number in range(documents)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "data.json").write_text('{"task": "generate", "max_length": 24}\n', encoding="utf-8")
    return folder
