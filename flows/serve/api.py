"""The HTTP interface of a served model: /predict, /embed or /generate; /healthz, /metrics and /openapi.json.

Requests only read what is served. No text is logged, kept or counted by what it says.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from flows.serve import answers
from flows.serve.asking import answered, chosen, compare, copy, standing, streamed, tried
from flows.serve.bodies import Question, Writing, asked, body_of, described, read, read_writing
from flows.serve.doorway import Doorway
from flows.serve.lanes import Lane, Served, Slot
from flows.serve.metrics import CONTENT_TYPE, Meters
from registry.records import ShrinkError, Task
from tasks import runtime

PATHS: dict[Task, str] = {"classify": "/predict", "embed": "/embed", "generate": "/generate"}


def application(slot: Slot, token: str | None = None) -> Any:
    """The HTTP application over a slot; with a token only who bears it is answered."""
    app = FastAPI(title=f"shrink deploy {slot.name}", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    meters = Meters(slot)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="What is served and tried, what is refused and why", responses=answers.HEALTH)
    async def healthz(request: Request) -> JSONResponse:
        status = 503 if slot.serving is None else 200
        word = "waiting" if slot.serving is None else "serving"
        return JSONResponse(health(slot) if request.state.known else {"status": word}, status_code=status)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=answers.METRICS)
    async def metrics() -> Response:
        return Response(meters.text(), media_type=CONTENT_TYPE)

    @app.post("/predict", openapi_extra=described(Question), summary="The labels of texts", responses=answers.PREDICT)
    async def predict(request: Request) -> JSONResponse:
        question = read(await body_of(request))
        lane, found = await rows_of(slot, "classify", question, request)
        labels = runtime.answers(found["rows"], lane.served.config)
        return JSONResponse({"model": slot.name, "version": lane.served.version, "predictions": labels})

    @app.post("/embed", openapi_extra=described(Question), summary="The vectors of texts", responses=answers.EMBED)
    async def embed(request: Request) -> JSONResponse:
        question = read(await body_of(request))
        lane, found = await rows_of(slot, "embed", question, request)
        vectors = found["rows"].tolist()
        return JSONResponse({"model": slot.name, "version": lane.served.version, "embeddings": vectors})

    @app.post(
        "/generate", openapi_extra=described(Writing), summary="What the model writes", responses=answers.GENERATE
    )
    async def generate(request: Request) -> Response:
        question = read_writing(await body_of(request))
        lane = await ready(slot, "generate")
        request.state.version = lane.served.version
        if question.stream:
            return StreamingResponse(events(slot, lane, question), media_type="text/event-stream")
        return JSONResponse(await text_of(slot, lane, question))

    return Doorway(app, slot, meters, token)


def health(slot: Slot) -> dict[str, Any]:
    """What /healthz says."""
    with slot.lock:
        serving, tried = slot.serving, slot.candidate
        return {
            "status": "waiting" if serving is None else "serving",
            "model": slot.name,
            "alias": slot.alias,
            "version": None if serving is None else serving.served.version,
            "task": None if serving is None else serving.served.task,
            "phase": slot.phase,
            "candidate": None if tried is None else tried.served.version,
            "seen": None if slot.phase is None else slot.seen().model_dump(mode="json"),
            "refused": None if slot.refused is None else slot.refused.model_dump(),
            "trouble": slot.trouble,
        }


def example(served: Served, address: str, bearer: bool = False) -> str:
    """A command that asks what is served, by its task and what it reads."""
    first, second = "a touching, funny film", "it made me laugh and cry"
    body: dict[str, Any] = {"pairs": [[first, second]]} if served.config.get("pairs") else {"texts": [first]}
    if served.task == "generate":
        body = {"prompt": "What is the capital of France?"}
    head = ' -H "Authorization: Bearer $SHRINK_TOKEN"' if bearer else ""
    return f"curl -s {address}{PATHS[served.task]}{head} -d '{json.dumps(body)}'"


async def ready(slot: Slot, task: Task) -> Lane:
    """The version that answers next, if it is for this task; 503 while nothing is, 404 where it is for another."""
    lane = chosen(slot) or await standing(slot)
    if lane.served.task != task:
        raise HTTPException(404, f"{slot.name} is for task {lane.served.task}: ask {PATHS[lane.served.task]} instead")
    return lane


async def rows_of(slot: Slot, task: Task, question: Question, request: Request) -> tuple[Lane, dict[str, Any]]:
    """The numbers that the texts of a question get, and the version that gave them."""
    lane = await ready(slot, task)
    lane, found = await answered(slot, lane, {"texts": asked(lane.served, question)})
    request.state.version = lane.served.version
    return lane, found


async def text_of(slot: Slot, lane: Lane, question: Writing) -> dict[str, Any]:
    """A whole answer; a 422 says what is wrong with the prompt."""
    said, copied = list[str](), copy(slot, question.asked())
    try:
        lane, found = await tried(slot, lane, question.asked(), said.append)
    except ShrinkError as error:
        raise HTTPException(422, [{"field": question.field(), "problem": mended(error)}]) from None
    text = "".join(said)
    if copied is not None:
        compare(slot, copied, lane, {"text": text})
    return {"model": slot.name, "version": lane.served.version, "text": text, **found}


async def events(slot: Slot, lane: Lane, question: Writing) -> AsyncIterator[str]:
    """An answer as server-sent events: parts {"text"}, then {"done"} with how many tokens, or {"error"}."""
    said, copied = list[str](), copy(slot, question.asked())
    try:
        async for one in streamed(slot, lane, question.asked()):
            said.append(one.get("text", ""))
            yield f"data: {json.dumps(one, ensure_ascii=False)}\n\n"
            if "done" in one and copied is not None:
                compare(slot, copied, lane, {"text": "".join(said)})
    except ShrinkError as error:
        yield f"data: {json.dumps({'error': mended(error), 'field': question.field()}, ensure_ascii=False)}\n\n"
    except HTTPException as error:
        yield f"data: {json.dumps({'error': error.detail})}\n\n"


def mended(error: ShrinkError) -> str:
    """A sentence of the command line in the words of a request."""
    return f"{error}".replace("(--raw)", '("raw": true)')
