"""A gate's verdict: every check with its value, its limit and why."""

from typing import Any, Literal

from pydantic import BaseModel, model_validator

from registry.records.base import STRICT

State = Literal["passed", "failed", "not_proven"]


class Check(BaseModel):
    """One line of a verdict: what is not proven did not pass, and `needed` more examples might prove it."""

    model_config = STRICT
    name: str
    value: float | None
    limit: float | None
    passed: bool
    why: str
    state: State = "failed"
    needed: int | None = None  # null where no number of examples would do

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, raw: Any) -> Any:
        """Checks of before there was a state passed or failed."""
        if isinstance(raw, dict) and "state" not in raw:
            return raw | {"state": "passed" if raw.get("passed") else "failed"}
        return raw

    @model_validator(mode="after")
    def _agrees(self) -> "Check":
        if self.passed != (self.state == "passed"):
            raise ValueError(f"passed is {self.passed} but state is {self.state}")
        return self


class Verdict(BaseModel):
    """All checks of a gate; passed only when every check passed."""

    model_config = STRICT
    passed: bool
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> State:
        """Not proven where nothing failed, but something lacks examples."""
        if self.passed or not self.checks:
            return "passed" if self.passed else "failed"
        return "failed" if any(check.state == "failed" for check in self.checks) else "not_proven"
