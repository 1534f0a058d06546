"""What models that write are asked: prompts to chat on, and questions with answers to choose from, all of our own.

facts.jsonl: {"question", "choices", "answer"}; endings.jsonl: {"context", "endings", "answer"}; `answer` counts from 0.
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple

FOLDER = Path(__file__).parent
Questions = Literal["facts", "endings"]


class Question(NamedTuple):
    """A beginning, ways to go on, and which of them is right."""

    context: str
    choices: tuple[str, ...]
    answer: int


def prompts() -> list[str]:
    """What an assistant is asked (chat_prompts.yaml)."""
    import yaml

    found: list[str] = yaml.safe_load((FOLDER / "chat_prompts.yaml").read_text(encoding="utf-8"))
    return found


def questions(name: Questions) -> list[Question]:
    """The questions of a file."""
    begin, rest = {"facts": ("question", "choices"), "endings": ("context", "endings")}[name]
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line]
    return [Question(row[begin], tuple(row[rest]), row["answer"]) for row in rows]
