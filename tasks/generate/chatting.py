"""How much of its teacher's answers to chat prompts a student gives word for word, both writing greedily.

Of each answer the share that stands before the first token in which the student differs: the first divergent token of
Deiseroth et al. 2024 (Divergent Token Metrics, NAACL), as a share of the answer. What follows it is no measure, since
the two then write behind different beginnings. A student that would write the very same answer reads 1.

Where both cut texts alike, the student need not write: it goes on as the teacher does for as long as its likeliest
token behind the teacher's own answer is the teacher's. Else it writes, and characters are compared.
"""

from collections.abc import Sequence
from typing import NamedTuple

from registry.records import Sample, ShrinkError
from tasks.generate.runtime import Opened

PROMPT = "Why is the sky blue?"
SAMPLED = 40  # tokens at most of an answer that is shown
BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded to


class Answer(NamedTuple):
    """A prompt's tokens by the teacher, the tokens that it answers, and whether it ended there by itself."""

    prompt: list[int]
    ids: list[int]
    ended: bool


def messages(prompt: str) -> list[dict[str, str]]:
    """One turn of a chat."""
    return [{"role": "user", "content": prompt}]


def answer(teacher: Opened, prompt: str, most: int) -> Answer:
    """What the teacher answers, at most so many tokens; with the token that ends it where it ends by itself."""
    asked = teacher.chat(messages(prompt))
    if len(asked) + most > teacher.context:
        raise ShrinkError(
            f"answer is {most} tokens, which with a prompt of {len(asked)} exceed the teacher's context of "
            f"{teacher.context}: lower it."
        )
    ids = list(teacher.stream(asked, most))
    if len(ids) == most:
        return Answer(asked, ids, False)
    end = int(teacher.logits(asked + ids)[-1].argmax())
    return Answer(asked, [*ids, end], True)


def kept(student: Opened, teacher: Opened, prompt: str, given: Answer, alike: bool) -> float:
    """The share of the teacher's answer that the student, `alike` in its tokens or not, gives before it differs."""
    asked = student.chat(messages(prompt))
    if alike and asked == given.prompt:
        said = student.logits(asked + given.ids)[len(asked) - 1 : -1].argmax(-1)
        return leading([int(one) == wanted for one, wanted in zip(said, given.ids, strict=True)])
    ids = given.ids[:-1] if given.ended else given.ids
    wanted, own = teacher.text(ids), student.text(list(student.stream(asked, len(given.ids))))
    if not wanted:
        return float(not own)
    return leading([own[place : place + 1] == one for place, one in enumerate(wanted)])


def sample(teacher: Opened, student: Opened) -> Sample | None:
    """Both models' own answers to a prompt that is ours; nothing where they cannot chat."""
    try:
        said = [
            one.text(list(one.stream(one.chat(messages(PROMPT)), SAMPLED))).strip().removesuffix(BROKEN)
            for one in (teacher, student)
        ]
    except ShrinkError:  # no chat template, or a context that is too short: the measure says which
        return None
    return Sample(prompt=PROMPT, teacher=said[0], student=said[1])


def leading(same: Sequence[bool]) -> float:
    """The share of places before the first that is not the same."""
    return next((place for place, one in enumerate(same) if not one), len(same)) / len(same)
