"""A version fetched, verified, opened in a process of its own and asked its golden texts: what may answer requests.

Which version that is says the ledger for `champion` and `previous`, whatever aliases somebody has set in MLflow; other
aliases, and numbers, are MLflow's.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows import keys
from flows.named import by_ledger
from flows.serve import child
from flows.serve.lanes import Lane, Served
from flows.serve.rollout import Options
from flows.servers import s3_config
from flows.settings import settings
from infra.services import current
from registry import ledger, promotion, store, versions
from registry.records import ShrinkError, directory_bytes
from registry.signing import Trust
from registry.standing import standing
from tasks import extras, runtime

TOLERANCE = 1e-4  # of a golden output; as in tasks/reload.py
GOLDEN_SECONDS = 600.0  # for all of them
BASE_MB, TIMES = 1024.0, 8.0  # of memory, and of the model's bytes: 4 bits a weight take 32 in transformers


class Unfit(RuntimeError):
    """A version whose bytes are right but whose answers are not."""


class Named(NamedTuple):
    """The version that an alias names, by which entry of the ledger, and whether that went back to an earlier one."""

    version: str
    mark: str = ""
    back: bool = False


_known: dict[tuple[store.S3Config, str, Trust], ledger.Known] = {}  # ledgers as they were when they were last looked at


@lru_cache(maxsize=1)
def _s3(config: store.S3Config) -> Any:
    return store.connect(config)


def entries_of(registry: Any, name: str) -> list[promotion.Entry]:
    """All that a model's ledger holds, in order, its chain, end and signatures verified; only what is new is read."""
    found = current(settings().home)
    if found is None:
        raise ShrinkError(f"there are no servers in '{settings().home}'; start them with `shrink up`.")
    config, trust = s3_config(found), keys.trust(settings())
    key = (config, name, trust)
    _known[key] = ledger.newer(_s3(config), found.bucket, name, _known.get(key), trust, registry)
    return _known[key].entries


def named(registry: Any, name: str, alias: str) -> Named:
    """What an alias names now; raises ShrinkError when that is nothing."""
    if alias not in {promotion.CHAMPION, promotion.PREVIOUS}:
        return Named(versions.resolve(registry, name, alias))
    entries = entries_of(registry, name)
    through = entries[:-1] if entries and entries[-1].event == "intent" else entries  # what is done
    now = standing(through)  # without what a person has rejected since
    done = [one for one in through if one.event == "done" and one.moves and one.counts]
    found = now.champion if alias == promotion.CHAMPION else now.previous
    if found is None:
        raise ShrinkError(f"model {name} has no {alias} in the ledger, signed: promote a version with `shrink run`.")
    return Named(found, str(done[-1].seq), done[-1].action == "rollback")


def load(registry: Any, name: str, version: str, cache: Path, threads: int, options: Options) -> Lane:
    """Fetch, verify, open and check one version; raises CorruptVersion or Unfit when it must not be served."""
    fetched = by_ledger(registry, name, version, cache / f"{name}-{version}")
    try:
        digest = str(registry.get_model_version(name, version).tags.get(versions.DIGEST_TAG, ""))
        return opened(fetched / "model", fetched / "evidence" / "golden.json", version, threads, options, digest)
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"it cannot be opened or checked: {type(error).__name__}: {error}") from error


def opened(
    model: Path, golden: Path, version: str, threads: int = 1, options: Options | None = None, digest: str = ""
) -> Lane:
    """Open a model's directory in a process and compare its answers with the golden ones; raises Unfit if they differ.

    The calling thread must live as long as the process.
    """
    chosen, task = options or Options(), runtime.task(model)
    limit = chosen.memory_mb or BASE_MB + TIMES * directory_bytes(model) / 1e6
    engine = writes_in(golden) if task == "generate" else "onnxruntime"
    served = Served(
        version=version, digest=digest, directory=model, task=task, config=runtime.settings(model), runtime=engine,
        limit_mb=limit,
    )  # fmt: skip
    begun = child.start(model, engine, threads, chosen.batch, limit)
    try:
        if task == "generate":
            written(begun, golden, limit)
        else:
            predicted(begun, golden, runtime.OUTPUTS[task], limit)
    except Exception:
        begun.kill()
        raise
    return Lane(served, begun)


def predicted(begun: child.Child, golden: Path, what: str, limit_mb: float) -> None:
    """Compare labels' logits or embeddings with the golden ones, one text a batch as they were made."""
    texts, expected = runtime.golden(golden)
    rows = []
    for text in texts:  # one after the other: what waits together would be one batch
        _, found = begun.ask({"texts": [text]})
        rows.append(child.rows(child.within(begun, found, GOLDEN_SECONDS, limit_mb))[0])
    answers = np.array(rows, dtype=np.float32)
    if not len(expected) or answers.shape != expected.shape:
        raise Unfit(f"its {what} has the shape {answers.shape}, the golden one {expected.shape}")
    worst = float(np.abs(answers - expected).max())
    if not worst <= TOLERANCE:
        raise Unfit(f"it differs from its golden {what} by {worst:.3g}, allowed is {TOLERANCE:g}")


def written(begun: child.Child, golden: Path, limit_mb: float) -> None:
    """Have a model that writes go on with the golden prompts: the same tokens, as likely as before."""
    _, found = begun.ask({"golden": str(golden)})
    worst = float(child.within(begun, found, GOLDEN_SECONDS, limit_mb)["worst"])
    if not worst <= TOLERANCE:
        raise Unfit(f"its golden tokens differ in likelihood by {worst:.3g}, allowed is {TOLERANCE:g}")


def writes_in(golden: Path) -> str:
    """The runtime that a model that writes was judged in, which is the one it is served in."""
    named_there = str(json.loads(golden.read_text(encoding="utf-8"))["runtime"])
    if named_there != "transformers":
        extras.require(named_there, "it was judged in a runtime that is not here: ", instead="judge it in transformers")
    return named_there
