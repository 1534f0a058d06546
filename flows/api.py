"""The HTTP interface of a served model: /predict or /embed, and /healthz. Requests only read what is served."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.serving import Loaded, Slot
from registry.records import Task
from tasks import runtime
from tasks.pairs import Text

MAX_TEXTS = 128
MAX_CHARACTERS = 10_000
MAX_BYTES = 1 << 20
PATHS: dict[Task, str] = {"classify": "/predict", "embed": "/embed"}

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


def example(loaded: Loaded, address: str) -> str:
    """A command that asks what is served, by its task and what it reads."""
    first, second = "a touching, funny film", "it made me laugh and cry"
    body = {"pairs": [[first, second]]} if loaded.config.get("pairs") else {"texts": [first]}
    return f"curl -s {address}{PATHS[loaded.task]} -d '{json.dumps(body)}'"


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
