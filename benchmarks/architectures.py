"""Which encoders go through which stages, tried: a tiny random model of every architecture, three kinds of tokenizer.

    python -m benchmarks.architectures               # runs all of it (minutes), writes benchmarks/architectures.md
    python -m benchmarks.architectures --only bert   # runs one architecture and prints its rows

A cell works when its stage ran behind those that its recipe has before it, what it left was read back, and an export
gave what torch gives, by its own runtime. It is refused when `preflight`, with which `shrink run` and `shrink plan`
begin, says so in one sentence. A stage that fails otherwise stops this program. The extras must be installed.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from benchmarks.architectures_shown import WORKS, Said, page
from benchmarks.architectures_stages import COLUMNS, Column, recipe_of, stages_of
from flows.preflight import preflight
from flows.steps import DATA, TEACHER, Step, comparison, steps_of
from registry.records import ShrinkError
from tasks import answers, architectures, compare, data, layout, models, train
from tasks.export import onnx
from tasks.kinds import function_of
from tests.tasks.encoders import TOKENIZERS, save_teacher
from tests.tasks.test_torch_stages import make_texts

PAGE = Path(__file__).with_suffix(".md")
ROWS = 120
FAMILIES = ("bert", "roberta")  # whose padding is piece 0 and piece 1: these are walked with every kind of tokenizer
NEAR = 1e-4  # how far an export's logits may be from those of what it was made of
ANY_SIZE = ("vocab_size", "pad_token_id", "max_position_embeddings", "num_hidden_layers")  # change no graph


def everything() -> list[str]:
    """The architectures that the stages know, and the strangers that look like them."""
    return [*architectures.known(), *architectures.STRANGERS]


def make_sources(work: Path, kind: str, pieces: str = "WordPiece") -> dict[str, Path]:
    """Teacher and data of a recipe, by the names that its steps have for them."""
    work.mkdir(parents=True)
    rows = [f'{number},"{text}",{int(mean > 0)}' for number, (text, mean) in enumerate(make_texts(ROWS, 1), start=1)]
    (work / "rows.csv").write_text("\n".join(["id,text,label", *rows]), encoding="utf-8")
    if kind in architectures.STRANGERS:
        (work / "teacher").mkdir()
        (work / "teacher" / "config.json").write_text(json.dumps({"model_type": kind}))
    else:
        save_teacher(work / "teacher", kind, pieces)
    return {TEACHER: work / "teacher", DATA: work}


def refusal(column: Column, sources: dict[str, Path]) -> str | None:
    """The sentence in which a column's recipe is refused for a teacher before anything runs, none when it is not."""
    try:
        preflight(recipe_of(column), sources[TEACHER], sources[DATA])
    except ShrinkError as error:
        return str(error)
    return None


def walk(
    kind: str, work: Path, columns: Sequence[Column], seen: set[str] | None, pieces: str = "WordPiece"
) -> dict[str, str]:
    """Run every recipe that is not refused on a tiny model; {column: ✓ or the sentence}. A failure is raised.

    `seen` are the encoders' shapes whose graph was compared already; None: no graph is compared but an export's own.
    """
    sources = make_sources(work, kind, pieces)
    said, made = dict[str, str](), dict[str, Path]()
    for column in columns:
        said[column.name] = refusal(column, sources) or WORKS
        if said[column.name] == WORKS:
            run(column, sources, made, lambda step, inputs, out: check(step, inputs, out, seen))
    return said


def run(
    column: Column,
    sources: dict[str, Path],
    made: dict[str, Path],
    checked: Callable[[Step, dict[str, Path], Path], None],
    but: tuple[str, ...] = ("compare",),
) -> None:
    """Run a column's recipe without what only closes it, `but` some kinds; what recipes have in common is made once."""
    recipe, held = recipe_of(column), dict(sources)
    steps = [step for step in steps_of(recipe).steps if step.config.kind != "compare"][: 2 + len(stages_of(column))]
    for step in [step for step in steps if step.config.kind not in but]:  # data and floor come first
        inputs = {role: held[at] for role, at in step.inputs.items()}
        key = f"{step.config!r} {sorted(inputs.items())}"
        if key not in made:
            out = sources[DATA] / f"made-{len(made):03d}"
            out.mkdir()
            function_of(step.config)(inputs, step.config, out, 0)
            checked(step, inputs, out)
            made[key] = out
        held[step.name] = made[key]


def check(step: Step, inputs: dict[str, Path], out: Path, seen: set[str] | None) -> None:
    """Raise RuntimeError when what a step left cannot be read back, holds no numbers, or answers otherwise."""
    check_finite(step, out)
    if step.config.kind in {"export", "quantize"}:
        source = next(iter(inputs.values()))
        config = comparison(step.config, quantized=step.config.kind == "quantize" and step.config.method != "smooth")
        texts = compare.held_out(inputs.get("data", source.parent / "made-000"), 16)
        expected, found = (
            answers.answers(form, at, texts) for form, at in ((config.source, source), (config.export, out))
        )
        apart = compare.discrepancy(expected, found, config.export, compare.about(out))
        if config.exact and apart.largest > NEAR:
            raise RuntimeError(f"{step.name} is {apart.largest} away from what it was made of")
    elif (out / "head.json").exists():
        layout.read(out)
        if seen is not None:
            compare_graph(out, seen)
        if getattr(step.config, "method", None) == "vocabulary":
            compare_logits(inputs["student"], out, data.read_rows(inputs["data"], "train"))


def check_finite(step: Step, out: Path) -> None:
    """Raise RuntimeError when a stage left something that is no number."""
    for path in out.glob("*.safetensors"):
        if not all(np.isfinite(one).all() for one in load_file(path).values() if one.dtype.kind == "f"):
            raise RuntimeError(f"{step.name} left something that is no number")


def compare_graph(student: Path, seen: set[str]) -> None:
    """Export a student of a shape that was not exported yet; the stage compares the graph with torch."""
    described = json.loads((student / "config.json").read_text(encoding="utf-8"))
    shape = json.dumps({name: value for name, value in described.items() if name not in ANY_SIZE}, sort_keys=True)
    if shape not in seen:
        with tempfile.TemporaryDirectory() as folder:
            onnx.run({"model": student}, onnx.OnnxConfig(tolerance=NEAR), Path(folder), 0)
        seen.add(shape)


def compare_logits(before: Path, after: Path, rows: list[data.Row]) -> None:
    """The texts whose pieces were kept must give the same answers to the last bit."""
    found = []
    for folder in (before, after):
        model, tokenizer, _ = models.load(folder)
        found.append(train.predict(model, train.tokenize(tokenizer, [row["text"] for row in rows]))[0])
    if not torch.equal(*found):
        raise RuntimeError(f"{after} answers otherwise than with its whole vocabulary")


def columns_of(kind: str, pieces: str) -> tuple[Column, ...]:
    """What is walked with a kind of tokenizer: all with WordPiece and of FAMILIES, else what drops pieces."""
    whole = pieces == "WordPiece" or kind in FAMILIES
    return COLUMNS if whole else tuple(column for column in COLUMNS if column.name == "prune/vocabulary")


def main() -> None:
    """Run the command described above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=everything(), help="one architecture; nothing is written")
    chosen = parser.parse_args().only
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    said, seen = dict[str, Said](), set[str]()
    with tempfile.TemporaryDirectory() as folder:
        for kind in [chosen] if chosen else everything():
            said[kind] = {}
            for pieces in TOKENIZERS:
                found = walk(kind, Path(folder) / kind / pieces, columns_of(kind, pieces), seen, pieces)
                said[kind][pieces] = found
                works = sum(one == WORKS for one in found.values())
                print(f"{kind}, {pieces}: {works} of {len(found)} stages", flush=True)
    text = page(said, FAMILIES, NEAR)
    if chosen:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
