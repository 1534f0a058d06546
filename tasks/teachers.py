"""Teachers by name: `teacher` is the one whose place the student takes; a recipe may train others beside it."""

from typing import Annotated

from pydantic import AfterValidator, Field

MAIN = "teacher"
# roles that are something else
TAKEN = (
    "behaviour",
    "champion",
    "data",
    "floor",
    "labels",
    "model",
    "packed",
    "source",
    "start",
)  # roles that are something else


def free(name: str) -> str:
    """The name, refused where stages already call something else so."""
    if name in TAKEN:
        raise ValueError(f"{name} is not free for a teacher (nor are {', '.join(one for one in TAKEN if one != name)})")
    return name


def named(name: str) -> str:
    """The name of a teacher that a stage can make; the student is made by the stages that shape and teach it."""
    if name == "student":
        raise ValueError("the student is no teacher that can be made; name another")
    return free(name)


Pattern = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
Maker = Annotated[str, Pattern, AfterValidator(named)]  # of a teacher that is made
Name = Annotated[str, Pattern, AfterValidator(free)]  # of one that is asked, the student included
