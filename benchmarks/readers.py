"""What reads one rounded decoder fastest: ONNX Runtime, llama.cpp and transformers, in one run, and the bytes of each.

Run: python -m benchmarks.readers STUDENT DATA [--rounds 5] [--work .shrink/readers]
(STUDENT, DATA: a finished run's folders of the rounded student, as `lm`, and of its rows.) The student is exported to
GGUF and to two graphs of MatMulNBits (activations as they are, and in 8 bits); transformers has it in float32. The four
take turns with one thread and with two, as tasks/generate/speed.py times them, and say how often their likeliest next
piece is transformers', over the beginnings of test documents. Memory is a clean process's peak.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks import answers
from tasks.data import read_rows
from tasks.export import gguf, matmul_nbits
from tasks.generate import speed
from tasks.generate.speed import Subject

WHOLE, FILE, EXACT, NEAR = "transformers, float32", "llama.cpp", "ONNX Runtime, float", "ONNX Runtime, int8"
FORMS: dict[str, answers.Format] = {WHOLE: "lm", FILE: "llama_cpp", EXACT: "matmul_nbits", NEAR: "matmul_nbits"}
THREADS = (1, 2)
TEXT = 20_000  # characters that prompts are cut from
DOCUMENTS = 16


def exported(student: Path, work: Path) -> dict[str, Subject]:
    """Every reader's folder and runtime; what was made before is made again."""
    made = {name: work / folder for name, folder in ((FILE, "gguf"), (EXACT, "float"), (NEAR, "int8"))}
    for folder in made.values():
        folder.mkdir(parents=True, exist_ok=True)
    gguf.run({"student": student}, gguf.GgufConfig(), made[FILE], 0)
    for name, kind in ((EXACT, "float"), (NEAR, "int8")):
        config = matmul_nbits.MatmulNbitsConfig.model_validate({"activations": kind})
        matmul_nbits.run({"student": student}, config, made[name], 0)
    return {
        WHOLE: Subject(student, "transformers"),
        FILE: Subject(made[FILE], "llama_cpp"),
        **{name: Subject(made[name], "onnxruntime") for name in (EXACT, NEAR)},
    }


def size_of(name: str, subject: Subject) -> int:
    """Bytes of the file that a reader opens; of transformers four a weight."""
    if name == WHOLE:
        from tasks.generate.nbits_weights import Weights

        return 4 * Weights(subject.directory, True).count
    return (subject.directory / ("model.gguf" if name == FILE else "model.onnx")).stat().st_size


def agreement(subjects: dict[str, Subject], texts: list[str]) -> dict[str, dict[str, float]]:
    """How often a reader's likeliest next piece is transformers', and how far its logits are from those at most."""
    said = {name: answers.answers(FORMS[name], one.directory, texts) for name, one in subjects.items()}
    return {
        name: {
            "agreement": float((logits.argmax(1) == said[WHOLE].argmax(1)).mean()),
            "largest": float(np.abs(logits - said[WHOLE]).max()),
        }
        for name, logits in said.items()
    }


def measured(student: Path, data: Path, work: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """{reader: bytes, memory, tokens a second by threads, agreement with transformers}."""
    subjects = exported(student, work)
    texts = [row["text"] for row in read_rows(data, "test")]
    read = "\n\n".join(texts)[:TEXT]
    found: dict[str, dict[str, Any]] = {
        name: {"bytes": size_of(name, one), "peak_rss_mb": speed.peak_rss_mb(one)} for name, one in subjects.items()
    }
    for name, told in agreement(subjects, texts[:DOCUMENTS]).items():
        found[name] |= told
    for threads in THREADS:
        for name, one in speed.measure(subjects, read, threads, rounds).items():
            found[name][f"read_{threads}"] = one.speed.prefill_tokens_per_s
            found[name][f"write_{threads}"] = one.speed.decode_tokens_per_s
    return found


def shown(found: dict[str, dict[str, Any]]) -> str:
    """A table in Markdown."""
    names = ("reader", "MB", "peak memory, MB", "read tokens/s, 1 and 2 threads", "written", "same next piece")
    lines = ["| " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) - 1)]
    for name, one in found.items():
        peak = "" if one["peak_rss_mb"] is None else f"{one['peak_rss_mb']:.0f}"
        rates = [" and ".join(f"{one[f'{kind}_{threads}']:.1f}" for threads in THREADS) for kind in ("read", "write")]
        lines.append(
            f"| {name} | {one['bytes'] / 1e6:.1f} | {peak} | {rates[0]} | {rates[1]} | {one['agreement']:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the command described above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path(".shrink/readers"))
    at = parser.parse_args()
    found = measured(at.student, at.data, at.work, at.rounds)
    (at.work / "readers.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(shown(found))


if __name__ == "__main__":
    main()
