"""Which encoders go through which stages, tried: a tiny random model of every architecture, and three tokenizers.

    python -m benchmarks.architectures               # runs all of it (minutes), writes benchmarks/architectures.md
    python -m benchmarks.architectures --only bert   # runs one architecture and prints its rows

A cell works when its stage ran, what it left was read back, and an exported graph gave what torch gives; it is refused
when `shrink run` says so in one sentence before anything is trained. A stage that fails otherwise stops this program.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows.recipe import parse
from flows.sizes import check_stages
from registry.records import ShrinkError
from tasks import architectures, data, layout, models, runtime, train
from tasks.kinds import EveryStage, function_of
from tests.tasks.encoders import TOKENIZERS, save_teacher
from tests.tasks.test_torch_stages import make_texts

PAGE = Path(__file__).with_suffix(".md")
SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 16, "transfer": False}
STAGES: tuple[tuple[str, dict[str, Any]], ...] = (  # a column's name and what the recipe says
    ("finetune", {"kind": "finetune", "epochs": 1, "tuned_layers": 2}),
    ("label", {"kind": "label", "transfer": False}),
    ("prune/vocabulary", {"kind": "prune", "method": "vocabulary"}),
    ("prune/low_rank", {"kind": "prune", "method": "low_rank", "rank": 8}),
    ("structured: layers", {"kind": "prune", "method": "structured", "layers": [0, 2]}),
    ("structured: ffn", {"kind": "prune", "method": "structured", "ffn": 16}),
    ("structured: heads", {"kind": "prune", "method": "structured", "heads": 2}),
    ("structured: hidden", {"kind": "prune", "method": "structured", "hidden": 16}),
    ("prune/magnitude", {"kind": "prune", "method": "magnitude"}),
    ("prune/wanda", {"kind": "prune", "method": "wanda", "calibration_rows": 32}),
    ("prune/gradual", {"kind": "prune", "method": "gradual", **SHORT}),
    ("prune/movement", {"kind": "prune", "method": "movement", **SHORT}),
    ("distill/logits", {"kind": "distill", "method": "logits", **SHORT}),
    ("distill/relations", {"kind": "distill", "method": "relations", "relation_heads": 4, **SHORT}),
    ("export/onnx", {"kind": "export"}),
    ("quantize/int8_dynamic", {"kind": "quantize", "method": "int8_dynamic"}),
    ("quantize/int8_static", {"kind": "quantize", "method": "int8_static", "calibration_rows": 32}),
    ("quantize/int4_weight_only", {"kind": "quantize", "method": "int4_weight_only", "block_size": 16}),
)
WORKS = "✓"


def everything() -> list[str]:
    """The architectures that the stages know, and the strangers that look like them."""
    return [*architectures.known(), *architectures.STRANGERS]


def recipe_of(stage: dict[str, Any], tuned: int = 2) -> Any:
    """A recipe that runs one stage behind those that it needs."""
    before = [{"kind": "finetune", "tuned_layers": tuned}, {"kind": "label", "transfer": False}]
    between = [] if stage["kind"] != "quantize" else [{"kind": "export"}]
    after = [] if stage["kind"] in {"export", "quantize"} else [{"kind": "export"}]
    stages = (
        [stage, {"kind": "label", "transfer": False}] if stage["kind"] == "finetune" else [*before, *between, stage]
    )
    content = {"name": "tiny", "data": {"kind": "data", "file": "rows.csv"}, "stages": [*stages, *after]}
    return parse(content | {"teacher": {"uri": "dir:x"}, "data_source": {"uri": "dir:x"}}, "tiny")


def refusal(kind: str, stage: dict[str, Any], folder: Path | None) -> str | None:
    """The sentence in which a stage is refused for a model of this architecture, none when it is not."""
    try:
        if folder is None:
            layout.check_architecture({"model_type": kind})
            return None
        check_stages(recipe_of(stage, 3 if kind == "albert" else 2), layout.read(folder), ["negative", "positive"])
    except ShrinkError as error:
        return str(error)
    return None


def make_rows(out: Path) -> Path:
    """Rows as the data stage leaves them."""
    out.mkdir(parents=True)
    for name, count, seed in (("train", 64, 1), ("validation", 24, 2)):
        texts = make_texts(count, seed)
        found = [{"id": str(n), "text": text, "label": int(mean > 0)} for n, (text, mean) in enumerate(texts)]
        data.write_rows(out / f"{name}.jsonl", found)
    facts = {"labels": ["negative", "positive"], "max_length": 16, "rows": {}, "format": "csv"}
    (out / "data.json").write_text(json.dumps(facts))
    return out


def walk(kind: str, work: Path, columns: tuple[tuple[str, dict[str, Any]], ...] = STAGES) -> dict[str, str]:
    """Run every stage that is not refused on a tiny model; {column: ✓ or the sentence}. A failure is raised."""
    held = {"data": make_rows(work / "rows")}
    held["floor"] = held["data"]  # label names it and does not read it
    if kind in architectures.STRANGERS:
        return {name: refusal(kind, stage, None) or "" for name, stage in columns}
    held["teacher"] = save_teacher(work / "teacher", kind)
    source, said = held["teacher"], dict[str, str]()
    for number, (name, stage) in enumerate(columns):
        said[name] = refusal(kind, stage, source) or WORKS
        if said[name] != WORKS and name != "finetune":
            continue
        own = {"tuned_layers": 3} if name == "finetune" and kind == "albert" else {}  # the sentence says so
        config = EveryStage.validate_python(stage | own)
        out = work / f"{number}"
        out.mkdir()
        inputs = {role: held["student" if role == "model" else role] for role in config.reads}
        function_of(config)(inputs, config, out, 0)
        check(config, out, held)
        if name in {"finetune", "label", "structured: layers", "export/onnx"}:
            held[config.writes[0] if config.writes[0] != "model" else "student"] = out
        if name == "finetune":
            held["student"] = out
    return said


def check(config: Any, out: Path, held: dict[str, Path]) -> None:
    """Raise RuntimeError when what a stage left cannot be read back, or answers with something that is no number."""
    texts = [row["text"] for row in data.read_rows(held["data"], "validation")]
    if (out / "head.json").exists():
        layout.read(out)
        model, tokenizer, _ = models.load(out)
        answers = train.predict(model, train.tokenize(tokenizer, texts))[0].numpy()
    elif (out / "model.onnx").exists():
        answers = runtime.predict(out, texts)
    else:
        return
    if not np.isfinite(answers).all():
        raise RuntimeError(f"{config.kind} of {out} gave no numbers")
    if config.kind == "export":
        model, tokenizer, _ = models.load(held["student"])
        wanted = train.predict(model, train.tokenize(tokenizer, texts))[0].numpy()
        if np.abs(answers - wanted).max() > 1e-4:
            raise RuntimeError(f"the graph of {held['student']} answers otherwise than torch")


def spelled(kind: str, pieces: str, work: Path) -> str:
    """✓ when a vocabulary of this kind is pruned and the texts' logits stay, to the bit; else the sentence."""
    if kind in architectures.STRANGERS:
        return refusal(kind, {}, None) or ""
    teacher, rows, stage = save_teacher(work / "teacher", kind, pieces), make_rows(work / "rows"), dict(STAGES)
    if (why := refusal(kind, stage["prune/vocabulary"], teacher)) is not None:
        return why
    config = EveryStage.validate_python(stage["prune/vocabulary"])
    (work / "out").mkdir()
    function_of(config)({"student": teacher, "data": rows}, config, work / "out", 0)
    texts = [row["text"] for row in data.read_rows(rows, "train")]
    answers = []
    for folder in (teacher, work / "out"):
        layout.read(folder)
        model, tokenizer, _ = models.load(folder)
        answers.append(train.predict(model, train.tokenize(tokenizer, texts))[0])
    if not torch.equal(*answers):
        raise RuntimeError(f"a {kind} with a pruned {pieces} vocabulary answers otherwise")
    return WORKS


def page(cells: dict[str, dict[str, str]], vocabularies: dict[str, dict[str, str]]) -> str:
    """The page in Markdown: both tables, and every sentence once."""
    sentences: list[str] = []

    def mark(said: str) -> str:
        if said == WORKS:
            return said
        if said not in sentences:
            sentences.append(said)
        return f"[{sentences.index(said) + 1}](#refusals)"

    def table(columns: list[str], rows: dict[str, dict[str, str]]) -> list[str]:
        lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        marks = {kind: " | ".join(mark(said[one]) for one in columns) for kind, said in rows.items()}
        return [*lines, *(f"| `{kind}` | {found} |" for kind, found in marks.items())]

    lines = [
        "# Which encoders go through which stages",
        "",
        "Written by `python -m benchmarks.architectures`. A tiny random model of each architecture went through each",
        f"stage: {WORKS} ran, was read back, and an exported graph gave what torch gives. A number is a refusal, in",
        "one sentence and before anything is trained.",
        "",
        *table([name for name, _ in STAGES], cells),
        "",
        "The stages above ran with a WordPiece tokenizer. With each kind of tokenizer the vocabulary is pruned to the",
        "pieces of the data and the logits stay the same to the last bit; no other stage looks into a tokenizer.",
        "",
        *table(list(TOKENIZERS), vocabularies),
        "",
        "## Refusals",
        "",
    ]
    return "\n".join([*lines, *(f"{number}. {said}" for number, said in enumerate(sentences, start=1)), ""])


def main() -> None:
    """Run the command described above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=everything(), help="one architecture; nothing is written")
    chosen = parser.parse_args().only
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cells, vocabularies = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        for kind in [chosen] if chosen else everything():
            work = Path(folder) / kind
            cells[kind] = walk(kind, work / "stages")
            vocabularies[kind] = {pieces: spelled(kind, pieces, work / pieces) for pieces in TOKENIZERS}
            print(f"{kind}: {sum(said == WORKS for said in cells[kind].values())} of {len(STAGES)} stages", flush=True)
    text = page(cells, vocabularies)
    if chosen:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
