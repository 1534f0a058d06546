"""Which decoders go through which stages, tried: a tiny random model of every family, four kinds of tokenizer.

    python -m benchmarks.decoder_families              # runs all of it (minutes), writes benchmarks/decoder_families.md
    python -m benchmarks.decoder_families --only opt   # runs one family and prints its rows

A cell works when its stage ran behind those that its recipe has before it, what it left was read back and wrote on with
a cache, and an export answers as what it was made of. It is refused when `preflight`, with which `shrink run` and
`shrink plan` begin, says so in one sentence. Where it refuses the recipe's end alone, export/gguf, the stage ran.
"""

import argparse
import functools
import json
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.nn import functional

from benchmarks.architectures import check_finite, refusal, run
from benchmarks.architectures_shown import ALONE, WORKS, closed, head, marked, table
from benchmarks.architectures_stages import Column, recipe_of
from benchmarks.decoder_stages import COLUMNS, TABLES
from flows.forecast import sizes_decoder
from flows.steps import DATA, TEACHER, Step
from registry.records import ShrinkError
from tasks import answers
from tasks.export.compressed_tensors import CompressedTensorsConfig
from tasks.export.gguf import GgufConfig
from tasks.export.matmul_nbits import MatmulNbitsConfig
from tasks.generate import families, header, lm, nbits_fit
from tasks.quantize.llama_cpp import LlamaCppConfig
from tests.tasks.generate import decoders

PAGE = Path(__file__).with_suffix(".md")
DOCUMENTS = 60
NEAR = 1e-4  # how far the logits of a GGUF file or an ONNX graph may be from those of what it was made of
HALF = 2e-2  # the same of compressed-tensors, whose plain numbers are halves
FAMILY = "llama"  # that is walked with every kind of tokenizer
INTRODUCTION = """\
# Which decoders go through which stages

{works} the whole recipe ran; {alone} the stage ran, but no recipe has it today: recipes end with a GGUF file, which is
not written of this family, as column `gguf` says. A number is a refusal, in one sentence and before anything is
trained: the sentences are [below](#refusals).

Written by `python -m benchmarks.decoder_families`, which takes a tiny random decoder of each of {known} families, with
byte-level BPE, and for each cell a recipe that has this stage behind those that it needs. What each stage left was read
back, its numbers are finite, and it writes with a cache as without one; a GGUF file and an ONNX graph of MatMulNBits,
read back, answer as what they are made of, to {near}, and compressed-tensors (an extra), whose plain numbers are
halves, to {half}. Each recipe went through `preflight`, with which `shrink plan` and `shrink run` begin. Quality is no
subject here: random decoders have none."""
NOTES = {
    "The teacher and its answers": "The student that answers itself had lost the pieces that the data does not use.",
    "distill": "Behind the teacher's answers; `tokens` after prune/depth, `rounded` after quantize/rtn.",
}
TOKENIZERS = """\
## Tokenizers

Every stage with every kind of tokenizer, for `llama`: byte-level BPE is that of GPT-2, Llama 3, SmolLM2 and Qwen; with
byte fallback that of Llama 2, Mistral 7B, Gemma and Phi-3."""


def make_sources(work: Path, family: str, pieces: str = decoders.TOKENIZERS[0]) -> dict[str, Path]:
    """Teacher and data of a recipe, by the names that its steps have for them."""
    heads = {"head_dim": nbits_fit.HEADS} if family in families.NBITS else {}
    decoders.folder(work / "teacher", family, pieces, **heads)
    words = " ".join(decoders.LEARNT).split()
    texts = [" ".join(words[(at * step + step) % len(words)] for step in range(1, 60)) for at in range(DOCUMENTS)]
    rows = [json.dumps({"id": f"{at}", "text": f"{text} {at}."}) for at, text in enumerate(texts)]
    (work / "texts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {TEACHER: work / "teacher", DATA: work}


def cell(column: Column, sources: dict[str, Path]) -> str:
    """✓ where preflight lets a column's recipe pass, ○ where it refuses its end alone, else the sentence."""
    if (said := refusal(column, sources)) is None:
        return WORKS
    try:
        sizes_decoder.check_stages(recipe_of(column), header.look(sources[TEACHER]))
    except ShrinkError:
        return said
    ends = re.match(r"stage \d+ \(export/gguf\): ", said) is not None
    return ALONE if ends and column.name != "export/gguf" else said


def walk(family: str, work: Path, columns: Sequence[Column], pieces: str = decoders.TOKENIZERS[0]) -> dict[str, str]:
    """Run every recipe that is not refused on a tiny model; {column: ✓, ○ or the sentence}. A failure is raised."""
    sources = make_sources(work, family, pieces)
    said, made = dict[str, str](), dict[str, Path]()
    for column in columns:
        said[column.name] = cell(column, sources)
        if said[column.name] in {WORKS, ALONE}:
            run(column, sources, made, check, ("compare",) if said[column.name] == WORKS else ("compare", "floor"))
    return said


def check(step: Step, inputs: dict[str, Path], out: Path) -> None:
    """Raise RuntimeError when what a step left cannot be read back, holds no numbers, or answers otherwise."""
    check_finite(step, out)
    if step.config.writes[1] == "lm":
        check_writing(step, out)
    if isinstance(step.config, GgufConfig | CompressedTensorsConfig | MatmulNbitsConfig):
        (source,) = inputs.values()
        texts, form = ["the quick brown fox", "over the lazy dog"], step.config.writes[1]
        found, expected = answers.answers(cast(answers.Format, form), out, texts), answers.answers("lm", source, texts)
        if np.abs(found - expected).max() > (HALF if form == "compressed_tensors" else NEAR):
            raise RuntimeError(f"{step.name} is {np.abs(found - expected).max()} away from what it was made of")
    if isinstance(step.config, LlamaCppConfig) and not np.isfinite(answers.answers("gguf", out, ["the dog"])).all():
        raise RuntimeError(f"{step.name} left a file whose answers are no numbers")


def check_writing(step: Step, out: Path) -> None:
    """A folder's model must write with a cache what it finds likeliest without one."""
    model, tokenizer = lm.load(out), lm.load_tokenizer(out)
    ids = torch.tensor([tokenizer("the quick brown fox", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        written = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
        logits = functional.log_softmax(model(input_ids=written, use_cache=False).logits[0], -1)
    likeliest = logits[ids.shape[1] - 1 : -1].max(-1).values
    chosen = logits[ids.shape[1] - 1 : -1].gather(1, written[0, ids.shape[1] :, None])[:, 0]
    if written.shape[1] != ids.shape[1] + 4 or not torch.allclose(likeliest, chosen, atol=1e-3):
        raise RuntimeError(f"{step.name} left a model that writes otherwise with a cache than without one")


def page(said: dict[str, dict[str, str]], crossed: dict[str, dict[str, str]]) -> str:
    """The page in Markdown, of what was said by family, and of one family by tokenizer."""
    sentences: list[str] = []
    mark = functools.partial(marked, sentences)
    parts = [INTRODUCTION.format(works=WORKS, alone=ALONE, known=len(said), near=NEAR, half=HALF)]
    for title, columns in TABLES.items():
        names = [column.name for column in columns]
        rows = {f"`{name}`": [mark(found[one]) for one in names] for name, found in said.items()}
        parts += [f"## {title}", *([NOTES[title]] if title in NOTES else []), table([*map(head, names)], rows)]
    rows = {column.name: [mark(found[column.name]) for found in crossed.values()] for column in COLUMNS}
    return closed([*parts, *([TOKENIZERS, table(list(crossed), rows)] if crossed else [])], sentences)


def main() -> None:
    """Run the command described above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=decoders.FAMILIES, help="one family; nothing is written")
    chosen = parser.parse_args().only
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        said = {}
        for family in [chosen] if chosen else decoders.FAMILIES:
            said[family] = walk(family, Path(folder) / family, COLUMNS)
            print(
                f"{family}: {sum(one == WORKS for one in said[family].values())} of {len(COLUMNS)} stages", flush=True
            )
        crossed = {
            one: walk(FAMILY, Path(folder) / one, COLUMNS, one) for one in ([] if chosen else decoders.TOKENIZERS)
        }
    text = page(said, crossed)
    if chosen:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
