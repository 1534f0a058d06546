"""`shrink init --task generate`: a recipe for a user's own language model and documents, checked before it is written.

The stages are those of the shipped `smollm2`; how much text they take, and the grids, follow from what is there
(flows/init_decoder_fit.py).
"""

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from flows import init_decoder_fit as fit
from flows import init_decoder_text as text
from flows import init_documents, sources, units
from flows.init import check_target, path_from, quoted
from flows.preflight import preflight
from flows.recipe import anchored, parse
from registry.records import ShrinkError
from tasks import layout, splits
from tasks.generate import counting, documents, gguf_check, gguf_fit, header
from tasks.generate.adopt import gguf_of
from tasks.generate.documents import DocumentsConfig

ANSWER = 32  # tokens of an answer, where the context has room
PLAIN = ("F64", "F32", "F16", "BF16")  # numbers of a GGUF file that are not rounded


def write(
    name: str,
    data: Path,
    model: Path,
    second: Path | None = None,
    column: str = "text",
    licences: tuple[str, str] = ("unknown", "unknown"),
    folder: Path = Path(),
) -> dict[str, Any]:
    """Write folder/NAME.yaml for documents and a language model; returns what was found and written.

    `data` is a text, CSV or JSONL file or a folder of text files, `model` a folder of transformers or a GGUF file.
    Raises ShrinkError, with nothing written, when one of them or the name will not do.
    """
    target = folder / f"{name}.yaml"
    check_target(name, target)
    place = folder_of(model)
    decoder = header.look(place)
    gguf_fit.check(place)
    config, source = init_documents.config_of(data, column, folder)
    if second is not None:
        init_documents.check_second(second, data)
    rows = documents.read(source, config.file, config.format, "data", config.text_column)
    parts = splits.split_rows(rows, config.split)
    with layout.foreign("the model's tokenizer"):
        tokens = counting.tokens(place, [row["text"] for row in parts["train"]])
    init_documents.check_amount(parts, tokens)
    lengths, grids = fit.lengths(tokens, decoder.context), fit.grids(decoder)
    written = text.TEMPLATE.format(
        name=name,
        file=target.name,
        model=described(place, decoder),
        context=decoder.context,
        k=min(32, decoder.pieces),
        correct=correction(place, lengths),
        **init_documents.amounts(parts, tokens),
        **origins(model, data, second, licences, folder),
        **data_lines(config, second),
        **rounding_lines(grids),
        **evaluation_lines(decoder.context),
        **lengths._asdict(),
    )
    recipe = anchored(parse(yaml.safe_load(written), str(target)), folder.absolute())
    preflight(recipe, place, source, {} if second is None else {"second": second.parent})
    with target.open("x", encoding="utf-8") as stream:
        stream.write(written)
    return {"recipe": str(target), "name": name, "teacher": described(place, decoder), "format": config.format} | {
        "documents": {split: len(part) for split, part in parts.items()},
        "bytes": init_documents.bytes_of(parts),
        "train_tokens": tokens,
        "max_length": lengths.window,
        "corrected": grid_of(place) is not None,
        "bits_per_weight": round(grids.bits, 2),
        "runtime": runtime(),
        "few_test_documents": len(parts["test"]) < init_documents.FEW_TESTS,
        "little_text": tokens < init_documents.ENOUGH,
    }


def folder_of(model: Path) -> Path:
    """A folder that holds the model alone."""
    if model.is_dir():
        return model
    if not model.is_file():
        raise ShrinkError(f"model is '{model}' but there is no such folder or GGUF file; name one.")
    if model.suffix != sources.MODEL:
        raise ShrinkError(
            f"model is '{model}' but a file must be a GGUF file, with a name that ends in {sources.MODEL}; name one, "
            "or a folder with config.json, model.safetensors and tokenizer.json."
        )
    return sources.linked(model.absolute())


def grid_of(place: Path) -> str | None:
    """The commonest type of a GGUF file's rounded matrices; None where nothing is rounded, or for a folder."""
    if (file := gguf_of(place)) is None:
        return None
    seen = gguf_check.check(file)
    rounded = Counter(kind for name, kind in seen.types.items() if len(seen.tensors[name]) > 1 and kind not in PLAIN)
    return rounded.most_common(1)[0][0] if rounded else None


def described(place: Path, decoder: header.Decoder) -> str:
    """What the teacher is, in some words."""
    grid = grid_of(place)
    kind = "a folder of transformers" if gguf_of(place) is None else "a GGUF file"
    kind += f" of {grid} blocks" if grid else ""
    return f"{kind}: {decoder.family}, {units.count(decoder.parameters)} weights, {decoder.layers} layers"


def correction(place: Path, lengths: fit.Lengths) -> str:
    """The template's lines for a teacher whose weights lie on a grid; empty for one in full precision."""
    if (grid := grid_of(place)) is None:
        return ""
    return text.CORRECT.format(blocks=grid, steps=lengths.steps, length=lengths.length)


def origins(model: Path, data: Path, second: Path | None, licences: tuple[str, str], folder: Path) -> dict[str, str]:
    """The template's sources."""
    scheme = {True: "dir", False: "file"}
    found = {"teacher": model, "source": data}
    said = {role: quoted(f"{scheme[path.is_dir()]}:{path_from(path, folder)}") for role, path in found.items()}
    other = quoted(f"file:{path_from(second, folder)}") if second is not None else ""
    return said | {
        "licence": quoted(licences[0]),
        "data_licence": quoted(licences[1]),
        "second_source": text.SECOND.format(uri=other, licence=quoted("unknown")) if second is not None else "",
    }


def data_lines(config: DocumentsConfig, second: Path | None) -> dict[str, str]:
    """The template's lines of the data."""
    return {
        "data_file": quoted(config.file),
        "format": config.format,
        "format_means": text.MEANS[config.format],
        "column": f"  text_column: {quoted(config.text_column)}\n"
        if config.format in init_documents.TABLES.values()
        else "",
        "second_file": f"  second_file: {quoted(second.name)}\n" if second is not None else "",
    }


def rounding_lines(grids: fit.Grids) -> dict[str, Any]:
    """The template's fields of the rounding and of the bits that it may leave."""
    exceptions = json.dumps(grids.exceptions).replace('"', "")
    return {"grid": fit.GRID, "table": grids.table, "exceptions": exceptions, "most": grids.most} | {
        "bits": f"{grids.bits:.2f}"
    }


def evaluation_lines(context: int) -> dict[str, str]:
    """The template's evaluation: by llama.cpp where it is installed; answers that a short context has room for."""
    short = context // 4 < ANSWER
    return {
        "runtime": runtime(),
        "runtime_means": text.RUNTIMES[runtime()],
        "answer": f", answer: {max(1, context // 4)}" if short else "",
    }


def runtime() -> str:
    """What can judge the models here."""
    return "llama_cpp" if find_spec("llama_cpp") else "transformers"
