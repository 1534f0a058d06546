"""benchmarks/scale.md as text: what was measured, the sums that follow from it, and how far they are off at 135M."""

from collections.abc import Callable
from typing import Any, NamedTuple

Measured = dict[str, Any]


class Shape(NamedTuple):
    """The sizes of a Llama."""

    layers: int
    width: int
    neurons: int
    queries: int
    groups: int
    head: int
    pieces: int
    tables: int  # 1: embedding and head are one

    @property
    def table(self) -> int:
        """Weights of one table."""
        return self.width * self.pieces


SHAPES = {
    "135M": Shape(30, 576, 1536, 9, 3, 64, 49_152, 1),
    "1B": Shape(16, 2048, 8192, 32, 8, 64, 128_256, 1),
    "8B": Shape(32, 4096, 14_336, 32, 8, 128, 128_256, 2),
}
CALIBRATED, SEEN, ANSWERED = 32 * 256, 32 * 128, 256 * 128  # tokens, as the stages' defaults have them


class Sums:
    """What follows for one shape: seconds of one thread by stage."""

    def __init__(self, name: str, lines: Measured, tokens: int, rows: int, length: int) -> None:
        self.shape, self.lines = SHAPES[name], lines
        self.layer, self.part = lines[f"layer {name}"], lines[f"table {name}"]
        self.tokens, self.times, self.length = tokens, self.shape.pieces / rows, length
        self.weights = self.shape.layers * self.layer["weights"] + self.shape.tables * self.shape.table
        small = SHAPES["135M"]
        whole = small.layers * lines["layer 135M"]["weights"] + small.tables * small.table
        self.files: float = lines["stage prune/grouped"]["seconds"] * self.weights / whole
        self.larger = self.weights / whole

    def forward(self, count: int) -> float:
        """So many tokens through all layers, without logits."""
        seconds: float = self.layer["forward"]
        return self.shape.layers * seconds * count / self.tokens

    def logits(self, count: int) -> float:
        """The logits of so many tokens."""
        seconds: float = self.part["logits"]
        return self.times * seconds * count / self.length

    def rtn(self) -> float:
        """Files, every layer and table rounded to nearest."""
        tables: float = self.shape.tables * self.times * self.part["nearest"]
        layers: float = self.shape.layers * self.layer["nearest"]
        return self.files + layers + tables

    def gptq(self) -> float:
        """Files; the head's inputs seen, the head and the embedding rounded; each layer seen, rounded, gone through."""
        head = self.forward(2048) + self.part["factor"] + self.times * self.part["gptq"]
        other = (self.shape.tables - 1) * self.times * self.part["nearest"]
        seen = self.shape.layers * self.layer["sums"] * CALIBRATED / self.tokens
        return float(self.files + head + other + seen + self.shape.layers * self.layer["gptq"]) + self.forward(
            CALIBRATED
        )

    def seen(self) -> float:
        """Files, and text through all layers once: what prune/depth and prune/width decide by."""
        return self.files + self.forward(SEEN)

    def answers(self, count: int = ANSWERED) -> float:
        """Half of the files, text through all layers, logits."""
        return self.files / 2 + self.forward(count) + self.logits(count)

    def memory(self) -> float:
        """Bytes at most of a walk: the weights, what one layer needs beside its own, and the text's hidden states."""
        return float(4 * self.weights + 1e6 * self.layer["memory_mb"] + 4.0 * CALIBRATED * self.shape.width)


STAGES: dict[str, Callable[[Sums], float]] = {
    "quantize/rtn": Sums.rtn,
    "quantize/gptq": Sums.gptq,
    "prune/depth": Sums.seen,
    "prune/width": Sums.seen,
    "label/top_k": Sums.answers,
}
BY_WEIGHTS = ("adopt/decoder", "prune/grouped", "prune/merges", "prune/sparse", "quantize/awq", "export/gguf")
INTRODUCTION = """\
# What a model of 1B or 8B would take

**Nothing of 1B or 8B was run whole.** One layer of each shape, with random weights, was; and {rows:,} rows of a table.
The stages themselves ran on SmolLM2-135M, and the same sums for it stand beside what was measured: that is how far to
trust them. Processor seconds of one thread on a busy machine; memory above the imports. Written by
`python -m benchmarks.scale TEACHER DATA`."""
SUMS = """\
## The sums

With L layers, T tokens and V pieces; every figure is one of the tables above, T and V are the stages' defaults.

- files: what prune/grouped took at 135M (it reads, cuts nothing to speak of, and writes), times the weights;
- quantize/rtn: files + L × nearest + tables × V / {rows} × rows to nearest;
- quantize/gptq: files + L × (sums + forward) × T / {tokens} + L × GPTQ + factor + V / {rows} × rows by GPTQ, T =
  {calibrated}; a second table to nearest; 2,048 tokens forward to see what the head reads;
- prune/depth, prune/width: files + L × forward × T / {tokens}, T = {seen};
- label/top_k: half of the files + L × forward × T / {tokens} + V / {rows} × logits × T / {length}, T = {answered};
- memory of a walk (quantize, prune/sparse): 4 bytes a weight + what a layer took beside its weights + T hidden states;
- all others: the seconds at 135M times the weights. GPTQ's factor is of the third power of the neurons, which is why
  quantize/awq and prune/sparse, given so, are the least they can take."""
MEANS = """\
## What it means

- A walk holds all weights in float32: {large:.1f} GB at 8B, and {walk:.1f} GB at most by the sum above, which is
  {ratio:.2f} of them. It fits a machine of 48 GB, not one of 24. Reading layers from the file one by one is not built.
- The largest matrix of a walk is what GPTQ knows of the neurons' inputs: {hessian:.2f} GB in float32 at 8B, twice that
  in double, three of them at once; {layer:.1f} GB were measured for a layer.
- `correct` and `distill` hold gradients and Adam's two moments of every weight that learns, 16 bytes a weight before
  any activation: {small:.0f} GB at 1B, {train:.0f} GB at 8B. At 135M it was {mine:.1f} GB, 16 bytes being {least:.1f}.
  `correct.layers` lets some layers learn alone.
- Several threads were not measured here."""


def page(lines: Measured, tokens: int, rows: int, length: int) -> str:
    """The page in Markdown; `tokens` went through the layers, `rows` of a table were rounded, `length` got logits."""
    sums = {name: Sums(name, lines, tokens, rows, length) for name in SHAPES}
    told = {"rows": rows, "tokens": tokens, "length": length, "calibrated": CALIBRATED, "seen": SEEN}
    large, small, mine = sums["8B"], sums["1B"], lines["stage correct"]["memory_mb"] / 1e3
    about = {"large": 4e-9 * large.weights, "walk": 1e-9 * large.memory()}
    about |= {"ratio": large.memory() / large.weights / 4}
    about |= {"hessian": 4e-9 * large.shape.neurons**2, "layer": 1e-3 * large.layer["memory_mb"], "mine": mine}
    about |= {"small": 16e-9 * small.weights, "train": 16e-9 * large.weights, "least": 16e-9 * sums["135M"].weights}
    parts = [
        INTRODUCTION.format(**told),
        f"## One layer\n\n{tokens:,} tokens in windows of {length}; seconds for all of them, or for all weights; "
        "sums: the forward pass with the sums of x xᵀ of every product's inputs.",
        layers(lines),
        f"## {rows:,} rows of an embedding or head\n\nLogits of {length} tokens; factor: of what the head reads, once.",
        table_rows(lines),
        "## Whole stages, SmolLM2-135M\n\n`correct` ran 2 steps, `label/top_k` 16 windows, all others their defaults.",
        whole(lines, sums["135M"]),
        SUMS.format(**told, answered=ANSWERED),
        "## What follows",
        follows(lines, sums),
        MEANS.format(**about),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(one)} |" for one in (head, *rows)]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(head) - 1), *lines[1:]])


def layers(lines: Measured) -> str:
    """The table of one layer of each shape."""
    fields = ("forward", "sums", "nearest", "gptq")
    rows = []
    for name, shape in SHAPES.items():
        one = lines[f"layer {name}"]
        sizes = f"{shape.width} / {shape.neurons} / {shape.queries} / {shape.groups}"
        rows.append([name, sizes, f"{one['weights'] / 1e6:.1f}", *(f"{one[field]:.2f}" for field in fields)])
        rows[-1].append(f"{one['memory_mb']:,.0f}")
    head = ["", "width / neurons / heads / of keys", "million weights", "forward", "sums", "nearest", "GPTQ"]
    return table([*head, "MB beside the weights"], rows)


def table_rows(lines: Measured) -> str:
    """The table of some rows of an embedding of each shape."""
    fields = ("logits", "nearest", "factor", "gptq")
    rows = [[name, *(f"{lines[f'table {name}'][field]:.3f}" for field in fields)] for name in SHAPES]
    return table(["", "logits", "rows to nearest", "factor", "rows by GPTQ"], rows)


def whole(lines: Measured, sums: Sums) -> str:
    """The table of the stages that ran on the teacher."""
    names = [name.removeprefix("stage ") for name in lines if name.startswith("stage ")]
    rows = []
    for name in names:
        one = lines[f"stage {name}"]
        rows.append([name, f"{one['seconds']:.1f}", f"{one['memory_mb']:,.0f}"])
        rows[-1].append(f"{1e6 * one['memory_mb'] / (4 * sums.weights):.2f}")
    return table(["", "seconds", "MB", "times the weights in float32"], rows)


def follows(lines: Measured, sums: dict[str, Sums]) -> str:
    """The table of what follows: the sums at 135M beside what was measured, and at 1B and 8B."""
    rows = []
    for name, by in STAGES.items():
        seconds = lines[f"stage {name}"]["seconds"]
        ours = by(sums["135M"]) if name != "label/top_k" else sums["135M"].answers(16 * 128)
        rows.append([name, f"{seconds:.1f}", f"{ours:.1f}", *(minutes(by(sums[one])) for one in ("1B", "8B"))])
    for name in BY_WEIGHTS:
        seconds = lines[f"stage {name}"]["seconds"]
        rows.append([name, f"{seconds:.1f}", "", *(minutes(seconds * sums[one].larger) for one in ("1B", "8B"))])
    walks = [f"{1e-9 * sums[one].memory():.2f} GB" for one in SHAPES]
    most = lines["stage quantize/gptq"]["memory_mb"] / 1e3
    rows.append(["memory of quantize/gptq", f"{most:.2f} GB", *walks])
    return table(["", "135M, measured", "135M, the sum", "1B, the sum", "8B, the sum"], rows)


def minutes(seconds: float) -> str:
    """Seconds as minutes, or hours."""
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.1f} min"
