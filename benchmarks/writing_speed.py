"""How fast models write: GGUF files in llama.cpp, beside one another and beside a teacher in float32 in transformers.

Run: python -m benchmarks.writing_speed TEACHER NAME=FILE.gguf [NAME=FILE.gguf …] [--rounds 6]
(TEACHER: a finished run's folder of its teacher.) All take turns in one run (tasks/generate/speed.py),
with one thread and with two, so that what else loads the machine hits all of them alike: compare ratios. Peak memory is
that of a clean process that loads the model, reads and writes. Prints a table of the page benchmarks/README.md.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

from registry.records import ShrinkError
from tasks.generate import speed
from tasks.generate.runtime import MODEL

THREADS = (1, 2)
TEXT = "The committee met on Tuesday to hear what the engineers had found below the old bridge, and why it had moved. "
FLOAT = "float32 in transformers"


def named(words: list[str]) -> dict[str, Path]:
    """{name: GGUF file} of NAME=FILE; ShrinkError where one is not there, or a name is twice."""
    found: dict[str, Path] = {}
    for word in words:
        name, _, file = word.partition("=")
        if not name or not Path(file).is_file():
            raise ShrinkError(f"'{word}' names no file: write NAME=FILE.gguf.")
        if name in found or name == FLOAT:
            raise ShrinkError(f"'{name}' is named twice: give each file a name of its own.")
        found[name] = Path(file)
    return found


def subjects(teacher: Path, files: Mapping[str, Path], scratch: Path) -> dict[str, speed.Subject]:
    """What is timed: each file in a folder of its own, as runtimes read them, and the teacher."""
    found = {FLOAT: speed.Subject(teacher, "transformers")}
    for number, (name, file) in enumerate(files.items()):
        folder = scratch / str(number)
        folder.mkdir()
        (folder / MODEL).symlink_to(file.resolve())
        found[name] = speed.Subject(folder, "llama_cpp")
    return found


def size_of(subject: speed.Subject) -> int:
    """Bytes of a model's weights as they lie there."""
    file = subject.directory / (MODEL if subject.runtime == "llama_cpp" else "model.safetensors")
    return file.stat().st_size


def table(models: Mapping[str, speed.Subject], rounds: int) -> list[str]:
    """The lines of a markdown table, a model a line."""
    text = " ".join(f"{number}. {TEXT}" for number in range(40 * (rounds + 1)))
    timed = [speed.measure(models, text, threads, rounds) for threads in THREADS]
    heads = [
        f"{what} tokens/s, {threads} thread{'s' * (threads > 1)}" for threads in THREADS for what in ("written", "read")
    ]
    lines = ["| " + " | ".join(["model", "MB", *heads, "peak memory, MB"]) + " |", "|---" * (3 + len(heads)) + "|"]
    for name, one in models.items():
        cells = [f"{size_of(one) / 1e6:.1f}"]
        for found in timed:
            seen = found[name].speed
            cells += [f"{seen.decode_tokens_per_s:.1f}", f"{seen.prefill_tokens_per_s:.0f}"]
        peak = speed.peak_rss_mb(one)
        lines.append(f"| {name} | " + " | ".join([*cells, "not measured" if peak is None else f"{peak:.0f}"]) + " |")
    return lines


def main() -> None:
    """Time what is named and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE.gguf")
    parser.add_argument("--rounds", type=int, default=6)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print("\n".join(table(subjects(said.teacher, named(said.files), Path(scratch)), said.rounds)))


if __name__ == "__main__":
    main()
