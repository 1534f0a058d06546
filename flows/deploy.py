"""A small server that always answers with the version behind an alias: `shrink deploy MODEL`, or MODEL@ALIAS.

A loop compares the alias with what is loaded. A new version is fetched, hashed against its digest, opened and asked the
golden texts of its evaluation; only then does it replace the old one, in one assignment. A version that fails keeps the
old one serving, or, just after a start, brings the alias `previous` back; /healthz says why. Requests in flight finish
with the version they began with.
"""

import logging
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.outcome import by_ledger
from flows.servers import client
from flows.settings import settings
from registry import promotion, versions
from registry.records import STRICT, ShrinkError, Task
from tasks import runtime
from tasks.pairs import Text

log = logging.getLogger("flows.deploy")

MAX_TEXTS = 128
MAX_CHARACTERS = 10_000
MAX_BYTES = 1 << 20
TOLERANCE = 1e-4  # of a golden output; as in tasks/reload.py
PATHS: dict[Task, str] = {"classify": "/predict", "embed": "/embed"}
RETRY_SECONDS = 600.0  # after which a refused version is tried again: what was amiss may have been its transport


class Unfit(RuntimeError):
    """A version whose bytes are right but whose answers are not."""


OneText = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class Question(BaseModel):
    """The body of /predict and of /embed: `texts`, or `pairs` for a model that answers pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    texts: Annotated[list[OneText] | None, Field(min_length=1, max_length=MAX_TEXTS, description="texts to answer")] = (
        None
    )
    pairs: Annotated[
        list[Annotated[list[OneText], Field(min_length=2, max_length=2)]] | None,
        Field(min_length=1, max_length=MAX_TEXTS, description="pairs of texts to answer: [[first, second]]"),
    ] = None


class Loaded(BaseModel):
    """An opened version: everything one request needs, so that it never sees two versions."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    version: str
    directory: Path
    task: Task
    config: dict[str, Any]
    session: Any


class Refused(BaseModel):
    """A version that is not served, and why."""

    model_config = STRICT
    version: str
    why: str
    until: float = Field(exclude=True, description="time.monotonic() at which it is tried again")


class Slot(BaseModel):
    """What the server serves now; the loop alone assigns, requests only read."""

    name: str
    alias: str
    serving: Loaded | None = None
    refused: Refused | None = None
    trouble: str | None = None


def serve(
    name: str,
    alias: str = "champion",
    host: str = "127.0.0.1",
    port: int = 8080,
    poll_seconds: float = 2.0,
    cache: Path | None = None,
    threads: int = 1,
) -> None:
    """Serve the alias until interrupted; versions are kept in `cache` (default: deployed/ in the state directory).

    Raises ShrinkError when the port cannot be had.
    """
    import uvicorn

    if poll_seconds <= 0:
        raise ShrinkError(f"poll_seconds is {poll_seconds:g}; give a number of seconds above 0.")
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, force=True)  # Prefect's import leaves a silent set-up
    log.setLevel(logging.INFO)
    holder = listening(host, port)
    slot, stop = Slot(name=name, alias=alias), threading.Event()
    registry, kept = client(), cache if cache is not None else settings().home / "deployed"

    def follow() -> None:
        while not stop.is_set():
            reconcile(registry, slot, kept, threads)
            stop.wait(poll_seconds)

    config = uvicorn.Config(
        application(slot, threads),
        limit_concurrency=64,
        timeout_graceful_shutdown=10,
        log_level="warning",
        access_log=False,
    )
    log.info("%s@%s on http://%s:%d: POST /predict or /embed, GET /healthz; Ctrl-C ends it", name, alias, host, port)
    threading.Thread(target=follow, name="follow", daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[holder])
    except KeyboardInterrupt:
        log.info("stopped")
    finally:
        stop.set()
        holder.close()


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to the port, taken before anything is loaded; raises ShrinkError when it cannot be had."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((host, port))
        holder.listen(1)  # SO_REUSEADDR alone lets two bind; only one listens
    except (OSError, OverflowError) as error:
        holder.close()
        reason = getattr(error, "strerror", None) or error
        raise ShrinkError(f"port = {port} cannot be listened on ({reason}); give another with --port.") from None
    return holder


def reconcile(registry: Any, slot: Slot, cache: Path, threads: int = 1) -> None:
    """One turn of the loop: make the slot serve what the alias names, or note why it does not. Never raises."""
    version = ""
    try:
        version = versions.resolve(registry, slot.name, slot.alias)
        if slot.serving is not None and slot.serving.version == version:
            slot.refused = slot.trouble = None
            return
        if slot.refused is not None and slot.refused.version == version and time.monotonic() < slot.refused.until:
            slot.trouble = None
            return
        loaded = load(registry, slot.name, version, cache, threads)
    except (versions.CorruptVersion, Unfit) as error:
        until = time.monotonic() + RETRY_SECONDS
        slot.refused, slot.trouble = Refused(version=version, why=str(error), until=until), None
        log.error("version %s of %s is refused: %s", version, slot.name, error)
        if slot.serving is None:
            fall_back(registry, slot, cache, threads)
    except Exception as error:  # the registry is away or the alias unset: go on with what is loaded, try again
        if slot.trouble is None:
            log.warning("alias %s of %s cannot be followed: %s", slot.alias, slot.name, error)
        slot.trouble = f"{type(error).__name__}: {error}"
    else:
        before = slot.serving.version if slot.serving is not None else None
        slot.serving, slot.refused, slot.trouble = loaded, None, None
        log.info("serving version %s of %s (before: %s)", version, slot.name, before)


def fall_back(registry: Any, slot: Slot, cache: Path, threads: int) -> None:
    """Serve the alias `previous` where nothing is served yet and the version asked for was refused."""
    try:
        version = versions.alias(registry, slot.name, promotion.PREVIOUS)
        if version is None or (slot.refused is not None and version == slot.refused.version):
            log.error("%s has no other version under the alias %s to go back to", slot.name, promotion.PREVIOUS)
            return
        slot.serving = load(registry, slot.name, version, cache, threads)
        log.warning("serving version %s of %s, the previous one, instead", version, slot.name)
    except Exception as error:
        log.error("the previous version of %s cannot be served either: %s", slot.name, error)


def load(registry: Any, name: str, version: str, cache: Path, threads: int = 1) -> Loaded:
    """Fetch, verify, open and check one version; raises CorruptVersion or Unfit when it must not be served."""
    folder = cache / f"{name}-{version}"
    fetched = by_ledger(registry, name, version, folder)
    try:
        return opened(fetched / "model", fetched / "evidence" / "golden.json", version, threads)
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"it cannot be opened or checked: {type(error).__name__}: {error}") from error


def opened(model: Path, golden: Path, version: str, threads: int = 1) -> Loaded:
    """Open a model's directory and compare its answers with the golden ones; raises Unfit when they differ."""
    session = runtime.session(model, threads)
    texts, expected = runtime.golden(golden)
    task = runtime.task(model)
    answers, name = runtime.predict(model, texts, batch=1, opened=session), runtime.OUTPUTS[task]
    if not len(expected) or answers.shape != expected.shape:
        raise Unfit(f"its {name} has the shape {answers.shape}, the golden one {expected.shape}")
    worst = float(np.abs(answers - expected).max())
    if not worst <= TOLERANCE:
        raise Unfit(f"it differs from its golden {name} by {worst:.3g}, allowed is {TOLERANCE:g}")
    return Loaded(version=version, directory=model, task=task, config=runtime.settings(model), session=session)


def asked(loaded: Loaded, question: Question) -> list[Text]:
    """The texts or pairs of a question; a 422 says which of the two this version answers."""
    wanted, other = ("pairs", "texts") if loaded.config.get("pairs") else ("texts", "pairs")
    given = getattr(question, wanted)
    if given is None:
        raise HTTPException(422, [{"field": other, "problem": f"this version answers {wanted} alone; give those"}])
    return [one if isinstance(one, str) else (one[0], one[1]) for one in given]


def answer(loaded: Loaded, texts: Sequence[Text], threads: int = 1) -> list[dict[str, Any]]:
    """For each text (or pair) the likeliest label, its score and all; of several labels those above one half."""
    logits = runtime.predict(loaded.directory, texts, threads=threads, opened=loaded.session)
    return runtime.answers(logits, loaded.config)


def embedded(loaded: Loaded, texts: Sequence[Text], threads: int = 1) -> list[list[float]]:
    """For each text its vector of length 1."""
    vectors: list[list[float]] = runtime.predict(
        loaded.directory, texts, threads=threads, opened=loaded.session
    ).tolist()
    return vectors


def application(slot: Slot, threads: int = 1) -> FastAPI:
    """The HTTP application over a slot."""
    app = FastAPI(title="shrink", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    def healthz() -> JSONResponse:
        serving = slot.serving
        body = {
            "status": "waiting" if serving is None else "serving",
            "model": slot.name,
            "alias": slot.alias,
            "version": None if serving is None else serving.version,
            "task": None if serving is None else serving.task,
            "refused": None if slot.refused is None else slot.refused.model_dump(),
            "trouble": slot.trouble,
        }
        return JSONResponse(body, status_code=503 if serving is None else 200)

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        question = read(await body_of(request))
        serving = ready(slot, "classify")
        found = await run_in_threadpool(answer, serving, asked(serving, question), threads)
        return JSONResponse({"model": slot.name, "version": serving.version, "predictions": found})

    @app.post("/embed")
    async def embed(request: Request) -> JSONResponse:
        question = read(await body_of(request))
        serving = ready(slot, "embed")
        found = await run_in_threadpool(embedded, serving, asked(serving, question), threads)
        return JSONResponse({"model": slot.name, "version": serving.version, "embeddings": found})

    return app


def ready(slot: Slot, task: Task) -> Loaded:
    """What is served now, if it is for this task; 503 while nothing is, 404 where it is for another."""
    serving = slot.serving
    if serving is None:
        raise HTTPException(503, "no version is loaded yet; /healthz says why")
    if serving.task != task:
        raise HTTPException(404, f"{slot.name} is for task {serving.task}: ask {PATHS[serving.task]} instead")
    return serving


async def body_of(request: Request) -> bytes:
    """The request's body, refused as soon as it is longer than MAX_BYTES."""
    held = bytearray()
    async for part in request.stream():
        held += part
        if len(held) > MAX_BYTES:
            raise HTTPException(413, f"body: longer than {MAX_BYTES} bytes; send fewer or shorter texts")
    return bytes(held)


def read(body: bytes) -> Question:
    """The question in a body; a 422 names every field that is wrong."""
    try:
        question = Question.model_validate_json(body)
    except ValidationError as error:
        wrong = [
            {"field": ".".join(map(str, one["loc"])) or "body", "problem": one["msg"]}
            for one in error.errors(include_url=False, include_input=False, include_context=False)[:8]
        ]
        raise HTTPException(422, wrong) from None
    if (question.texts is None) == (question.pairs is None):
        raise HTTPException(422, [{"field": "texts", "problem": "give either texts or pairs"}])
    return question
