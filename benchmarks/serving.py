"""What a server costs and what batching is worth: requests a second and milliseconds, beside the bare runtime.

    python -m benchmarks.serving [MODEL]

MODEL is the folder of an ONNX model as it is deployed; without one a student of the shipped recipe's shape is made,
with random weights (they do not change how long a product takes), by the recipe's own export and quantise stages. The
floor is onnxruntime asked text by text in this process, by one thread. Floor and servers take turns within one run;
each figure is the median of the rounds, and stands beside the floor's of the same run. Clients are a process of their
own and ask over HTTP on loopback, one text a request, without a pause.
"""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from flows.serve.rollout import Options, percentile
from tasks import runtime

SECONDS, ROUNDS = 3.0, 5
CLIENTS, BATCHES = (1, 8), (8, 1)
WORDS = "a touching funny film that made me laugh and cry although the plot is thin and its end comes far too late"
TEXTS = [" ".join(WORDS.split()[start : start + length]) for start in range(5) for length in (3, 8, 12, 16)]
Figures = dict[str, tuple[float, float, float]]  # texts a second, p50 and p95 in ms


def student(folder: Path) -> Path:
    """A model as the recipe's: three layers of 384, 768 neurons each, int8 products, the embedding in int4."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    from tasks import models as encoders
    from tasks.export import onnx
    from tasks.quantize import int8_dynamic

    torch.manual_seed(0)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS.split())]
    tokenizer = Tokenizer(models.WordPiece({one: place for place, one in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = BertConfig(
        vocab_size=8000, hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=768,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    places = [folder / name for name in ("torch", "onnx", "int8")]
    for place in places:
        place.mkdir(parents=True)
    model = encoders.Classifier(BertModel(config, add_pooling_layer=False), 2).eval()
    encoders.save(places[0], model, tokenizer, encoders.Head(labels=("negative", "positive"), max_length=64))
    onnx.run({"model": places[0]}, onnx.OnnxConfig(kind="export", method="onnx"), places[1], 0)
    quantized = int8_dynamic.Int8DynamicConfig(kind="quantize", method="int8_dynamic", embedding="int4")
    int8_dynamic.run({"student": places[1]}, quantized, places[2], 0)
    return places[2]


def asked(port: int, clients: int, seconds: float) -> list[float]:
    """Milliseconds of every request of so many clients (in this process)."""
    spent: list[list[float]] = [[] for _ in range(clients)]

    def ask(mine: list[float], start: int) -> None:
        link, until = http.client.HTTPConnection("127.0.0.1", port), time.perf_counter() + seconds
        place = start
        while (begun := time.perf_counter()) < until:
            link.request("POST", "/predict", json.dumps({"texts": [TEXTS[place % len(TEXTS)]]}))
            answer = link.getresponse()
            held = answer.read()
            if answer.status != 200:
                raise RuntimeError(held.decode())
            mine.append(1e3 * (time.perf_counter() - begun))
            place += 1

    threads = [threading.Thread(target=ask, args=(one, 3 * place)) for place, one in enumerate(spent)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return [one for mine in spent for one in mine]


def by_others(port: int, clients: int) -> tuple[float, float, float]:
    """What clients in a process of their own see."""
    call = [sys.executable, "-m", "benchmarks.serving", "--ask", str(port), str(clients)]
    spent = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    return len(spent) / SECONDS, percentile(spent, 0.5) or 0.0, percentile(spent, 0.95) or 0.0


def floor(model: Path) -> tuple[float, float, float]:
    """The same texts one by one, without a server."""
    session, spent, until = runtime.session(model), list[float](), time.perf_counter() + SECONDS
    while (begun := time.perf_counter()) < until:
        runtime.predict(model, [TEXTS[len(spent) % len(TEXTS)]], opened=session)
        spent.append(1e3 * (time.perf_counter() - begun))
    return len(spent) / SECONDS, percentile(spent, 0.5) or 0.0, percentile(spent, 0.95) or 0.0


def served(model: Path, golden: Path, batch: int) -> tuple[Any, Any, int]:
    """A server over the model, in a thread."""
    import uvicorn

    from flows.deploy import listening
    from flows.serve import lanes
    from flows.serve.api import application
    from flows.serve.opening import opened

    slot = lanes.Slot(name="served", alias="1", serving=opened(model, golden, "1", options=Options(batch=batch)))
    holder = listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(slot), log_level="warning", access_log=False))
    threading.Thread(target=server.run, kwargs={"sockets": [holder]}, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return slot, server, holder.getsockname()[1]


def neighbours(slot: Any) -> float:
    """The largest difference of a logit between a text alone and in a batch with all others."""
    from flows.serve import child

    ask = slot.serving.child.ask
    alone = np.concatenate([child.rows(ask({"texts": [text]})[1].result(60)) for text in TEXTS])
    return float(np.abs(alone - child.rows(ask({"texts": TEXTS})[1].result(60))).max())


def measured(model: Path, golden: Path) -> tuple[Figures, float]:
    """The medians over the rounds, in which everything takes a turn; and what neighbours do to an answer."""
    from flows.serve import guarding

    started = {batch: served(model, golden, batch) for batch in BATCHES}
    rounds: dict[str, list[tuple[float, float, float]]] = {}
    for turn in range(ROUNDS):
        rounds.setdefault("floor", []).append(floor(model))
        for batch, (_, _, port) in started.items():
            for clients in CLIENTS:
                rounds.setdefault(f"batch {batch}, clients {clients}", []).append(by_others(port, clients))
        print(f"round {turn + 1} of {ROUNDS}", file=sys.stderr)
    apart = neighbours(started[max(BATCHES)][0])
    for slot, server, _ in started.values():
        server.should_exit = True
        guarding.end(slot)
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in rounds.items()}
    return {name: (one[0], one[1], one[2]) for name, one in medians.items()}, apart


def main() -> None:
    """Print a table of Markdown."""
    if sys.argv[1:2] == ["--ask"]:
        print(json.dumps(asked(int(sys.argv[2]), int(sys.argv[3]), SECONDS)))
        return
    with tempfile.TemporaryDirectory() as place:
        model = Path(sys.argv[1]) if len(sys.argv) > 1 else student(Path(place))
        golden = Path(place) / "golden.json"
        logits = runtime.predict(model, TEXTS[:4], batch=1)
        golden.write_text(json.dumps({"texts": TEXTS[:4], "logits": logits.tolist()}))
        figures, apart = measured(model, golden)
    print("| | texts/s | of the floor | p50 ms | p95 ms |\n|---|---|---|---|---|")
    for name, (rate, half, most) in figures.items():
        print(f"| {name} | {rate:.0f} | {rate / figures['floor'][0]:.2f} | {half:.1f} | {most:.1f} |")
    print(f"\nlargest difference of a logit by its neighbours in a batch: {apart:.3g}")


if __name__ == "__main__":
    main()
