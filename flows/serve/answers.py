"""What the server answers, as /openapi.json describes it: bodies by route, and each refusal with its status code."""

from typing import Any

from pydantic import BaseModel, Field

TOKEN = "no token, or a wrong one (only where the server asks for one)"
BUSY = "nothing is loaded yet, or 64 requests are being answered: come again after Retry-After seconds"
REFUSALS = {
    401: TOKEN,
    404: "this version is for another task; the sentence names its route",
    408: "a body that is not whole within 30 seconds",
    413: "a body of more than 1 MB",
    422: "a body that is no JSON, or fields that will not do, each by name",
    503: BUSY,
}


class Problem(BaseModel):
    """A field of a body that will not do."""

    field: str = Field(description="its place in the body, as in texts.3")
    problem: str = Field(description="what is wrong with it")


class Refusal(BaseModel):
    """The body of a refusal: a sentence, or fields (422)."""

    detail: str | list[Problem]


class Label(BaseModel):
    """The answer to a text: one label, or of a model of several labels those over one half."""

    label: str | None = Field(None, description="the likeliest; absent of a model of several labels")
    score: float | None = Field(None, description="its probability")
    labels: list[str] | None = Field(None, description="those over one half; of a model of several labels alone")
    scores: dict[str, float] = Field(description="the probability of each label")


class Answer(BaseModel):
    """What every answer says: which version of which model gave it."""

    model: str
    version: str


class Predicted(Answer):
    """The answer of /predict, in the order of the texts."""

    predictions: list[Label]


class Embedded(Answer):
    """The answer of /embed, in the order of the texts."""

    embeddings: list[list[float]] = Field(description="vectors of length 1")


class Written(Answer):
    """The answer of /generate that is not streamed."""

    text: str
    tokens: int = Field(description="that were written")
    prompt_tokens: int = Field(description="that were read")


def responses(kind: type[BaseModel], events: str = "") -> dict[int | str, dict[str, Any]]:
    """What a route that answers questions may say, for FastAPI's `responses`; `events` describes a stream of them."""
    refused: dict[int | str, dict[str, Any]] = {
        code: {"model": Refusal, "description": said} for code, said in REFUSALS.items()
    }
    refused[503]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    refused[200] = {"model": kind, "description": "the answer"}
    if events:
        refused[200]["content"] = {"text/event-stream": {"schema": {"type": "string", "description": events}}}
    return refused


KNOWN: dict[int | str, dict[str, Any]] = {401: {"model": Refusal, "description": TOKEN}}
METRICS = KNOWN | {200: {"description": "the text format of Prometheus", "content": {"text/plain": {}}}}
HEALTH: dict[int | str, dict[str, Any]] = {
    200: {"description": "something is served: the facts, or to a stranger where there is a token the word alone"},
    503: {"description": "nothing is loaded yet: the same facts, which say why"},
}
EVENTS = 'lines `data: {"text": …}`, then `data: {"done": {"tokens", "prompt_tokens"}}` or `data: {"error": …}`'
PREDICT, EMBED, GENERATE = responses(Predicted), responses(Embedded), responses(Written, EVENTS)
