"""The bodies of requests, and what is refused in them: by field, before anything is asked."""

import asyncio
from typing import Annotated, Any, Literal, TypeVar

from fastapi import HTTPException, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from flows.serve.lanes import Served
from registry.records import has_text

MAX_TEXTS = 128
MAX_CHARACTERS = 10_000
MAX_BYTES = 1 << 20
BODY_SECONDS = 30.0  # in which a body must be there: who sends half of one takes a place from others
MAX_MESSAGES = 64
MAX_TOKENS = 1024


def visible(text: str) -> str:
    """A text, refused as `shrink predict` does where nothing of it can be seen."""
    if not has_text(text):
        raise PydanticCustomError("blank", "holds nothing that can be seen; give some words")
    return text


OneText = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS), AfterValidator(visible)]
Body = TypeVar("Body", bound=BaseModel)
CLOSE = {"Connection": "close"}  # what comes later would be taken for the next request
EXACT = ConfigDict(frozen=True, extra="forbid", strict=True)


class Question(BaseModel):
    """The body of /predict and of /embed: `texts`, or `pairs` for a model that answers pairs."""

    model_config = EXACT
    texts: Annotated[list[OneText] | None, Field(min_length=1, max_length=MAX_TEXTS, description="texts to answer")] = (
        None
    )
    pairs: Annotated[
        list[Annotated[list[OneText], Field(min_length=2, max_length=2)]] | None,
        Field(min_length=1, max_length=MAX_TEXTS, description="pairs of texts to answer: [[first, second]]"),
    ] = None


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = EXACT
    role: Literal["system", "user", "assistant"] = Field(description="who says it")
    content: OneText = Field(description="what is said")


class Writing(BaseModel):
    """The body of /generate: a `prompt`, or the `messages` of a conversation."""

    model_config = EXACT
    prompt: OneText | None = Field(None, description="what the model is asked, or, raw, the text that it goes on with")
    messages: Annotated[
        list[Message] | None, Field(min_length=1, max_length=MAX_MESSAGES, description="a conversation so far")
    ] = None
    max_tokens: int = Field(128, ge=1, le=MAX_TOKENS, description="tokens at most of the answer")
    raw: bool = Field(False, description="go on with the prompt's text, without the chat template")
    stream: bool = Field(False, description="server-sent events as it is written")

    def field(self) -> str:
        """The field that holds what is asked."""
        return "prompt" if self.messages is None else "messages"

    def asked(self) -> dict[str, Any]:
        """The question to the model's process."""
        if self.raw:
            return {"prompt": self.prompt, "most": self.max_tokens}
        turns = self.messages or [Message(role="user", content=self.prompt or "")]
        return {"messages": [one.model_dump() for one in turns], "most": self.max_tokens}


def asked(served: Served, question: Question) -> list[Any]:
    """The texts or pairs of a question; a 422 says which of the two this version answers."""
    wanted, other = ("pairs", "texts") if served.config.get("pairs") else ("texts", "pairs")
    given: list[Any] | None = getattr(question, wanted)
    if given is None:
        raise HTTPException(422, [{"field": other, "problem": f"this version answers {wanted} alone; give those"}])
    return given


async def body_of(request: Request) -> bytes:
    """The request's body, refused as soon as it is longer than MAX_BYTES, or takes longer than BODY_SECONDS."""
    too_long = HTTPException(413, f"body: longer than {MAX_BYTES} bytes; send fewer or shorter texts")
    if int(request.headers.get("content-length") or 0) > MAX_BYTES:
        raise too_long
    held = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                held += part
                if len(held) > MAX_BYTES:
                    raise too_long
    except TimeoutError:
        raise HTTPException(408, f"body: not whole within {BODY_SECONDS:g} s; send it again", CLOSE) from None
    except ClientDisconnect:  # nobody reads this; it is no failure of ours
        raise HTTPException(400, "body: cut off; send it again") from None
    return bytes(held)


def parsed(kind: type[Body], body: bytes) -> Body:
    """A body as what it must be; a 422 names every field that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        wrong = [
            {"field": ".".join(map(str, one["loc"])) or "body", "problem": one["msg"]}
            for one in error.errors(include_url=False, include_input=False, include_context=False)[:8]
        ]
        raise HTTPException(422, wrong) from None


def read(body: bytes) -> Question:
    """The question in a body of /predict or /embed."""
    question = parsed(Question, body)
    if (question.texts is None) == (question.pairs is None):
        raise HTTPException(422, [{"field": "texts", "problem": "give either texts or pairs"}])
    return question


def read_writing(body: bytes) -> Writing:
    """The question in a body of /generate."""
    question = parsed(Writing, body)
    if (question.prompt is None) == (question.messages is None):
        raise HTTPException(422, [{"field": "prompt", "problem": "give either prompt or messages"}])
    if question.raw and question.prompt is None:
        raise HTTPException(422, [{"field": "raw", "problem": "goes on with a prompt; give that"}])
    return question


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """A body for the OpenAPI description: FastAPI does not read it, so that it can be refused early."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    inner = schema.pop("$defs", {})
    text = schema if not inner else _inlined(schema, inner)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": text}}}}


def _inlined(schema: Any, inner: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return inner[schema["$ref"].rsplit("/", 1)[1]]
        return {key: _inlined(value, inner) for key, value in schema.items()}
    return [_inlined(one, inner) for one in schema] if isinstance(schema, list) else schema
