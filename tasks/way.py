"""How a stage that trains is carried out: by how many processes, in which precision, on what; imports no torch."""

from typing import Literal

from pydantic import BaseModel

from registry.records import STRICT

Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]


class Way(BaseModel):
    """One process in fp32 on the CPU, unless it says otherwise."""

    model_config = STRICT
    processes: int = 1
    precision: Precision = "fp32"
    device: Device = "cpu"


ALONE = Way()
