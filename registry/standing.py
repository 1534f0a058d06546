"""What a ledger's entries say: who is champion, what a rollback returns to, what people have approved or rejected."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, Field

from registry.ledger import Entry
from registry.records import STRICT


class Judged(BaseModel):
    """What a version's files say of it, or its tags where the files were not looked at."""

    model_config = STRICT
    digest: str
    evidence: str | None = Field(None, description="digest of its evidence, which the verdict is part of")
    passed: bool = Field(description="whether it passed its gate")
    asks: bool = Field(False, description="whether its recipe asks for a person's approval")


class Standing(BaseModel):
    """Where a model stands; an intent counts, since it is finished whatever happens."""

    model_config = STRICT
    line: tuple[str, ...] = ()  # the champions that a rollback walks back along, the present one last
    digests: dict[str, str] = {}  # of each version that the ledger speaks of, by its newest entry
    promoted: frozenset[str] = frozenset()  # champions at any time
    left: dict[str, Entry] = {}  # rolled back from and not promoted since
    words: dict[str, Entry] = {}  # the newest approval or rejection of each version

    @property
    def champion(self) -> str | None:
        """The champion's version; None before the first promotion."""
        return self.line[-1] if self.line else None

    @property
    def previous(self) -> str | None:
        """What a rollback would return to."""
        return self.line[-2] if len(self.line) > 1 else None

    def rejected(self, version: str) -> bool:
        """Whether a person's last word on a version is that it is rejected."""
        return version in self.words and self.words[version].action == "reject"


def standing(entries: list[Entry]) -> Standing:
    """Where a model stands after these entries."""
    line: list[str] = []
    digests: dict[str, str] = {}
    promoted: set[str] = set()
    left: dict[str, Entry] = {}
    words: dict[str, Entry] = {}
    for entry in entries:
        if entry.event == "done" or not entry.counts:
            continue
        if entry.proved is not False:
            digests[entry.target] = entry.digest or digests.get(entry.target, "")
        match entry.action:
            case "promote":
                line.append(entry.target)
                promoted.add(entry.target)
                left.pop(entry.target, None)
            case "rollback":
                if line:
                    left[line.pop()] = entry
                left.pop(entry.target, None)
                if line[-1:] != [entry.target]:  # whoever signed it knew entries that count here no more
                    line.append(entry.target)
                promoted.add(entry.target)
            case "approve" | "reject":
                words[entry.target] = entry
                if entry.action == "reject":  # a rollback must not return to it
                    line = without(line, entry.target)
    return Standing(line=tuple(line), digests=digests, promoted=frozenset(promoted), left=left, words=words)


def without(line: Sequence[str], version: str) -> list[str]:
    """A line of champions without one, none twice in a row: a rollback goes to another version than it leaves."""
    rest = [one for one in line if one != version]
    return [one for number, one in enumerate(rest) if number == 0 or one != rest[number - 1]]


def barred(now: Standing, name: str, version: str, judged: Judged, force: bool = False) -> str | None:
    """Why a version must not be promoted, as a sentence with its remedy; None when nothing is in its way.

    Force overrules a rejection, by the gate or a person, and nothing else.
    """
    word, of = now.words.get(version), f"version {version} of {name}"
    if not force and now.rejected(version) and word is not None:
        return f"{of} was rejected by {word.who} ({word.why}); `shrink approve`, or promote it with --force."
    alike = next((one for one in now.words.values() if one.action == "reject" and one.digest == judged.digest), None)
    if not force and alike is not None and (word is None or word.action != "approve"):
        return (
            f"{of} has the bytes of version {alike.target}, rejected by {alike.who} ({alike.why}); `shrink approve`, "
            "or promote it with --force."
        )
    if not force and not judged.passed:
        return f"{of} did not pass its gate; `shrink why {name}@{version}` says why, --force promotes it anyway."
    if not judged.asks:
        return None
    do = f"`shrink approve {name}@{version} --reason …`"
    if word is None or word.action != "approve":
        return f"{of} waits for a person's approval; {do} gives it."
    if word.digest != judged.digest:
        return f"the approval of {of} is for another digest ({word.digest[:12]}, not {judged.digest[:12]}); {do} anew."
    if ended(word):
        return f"the approval of {of} ended at {word.until}; {do} gives another."
    return None


def ended(approval: Entry) -> bool:
    """Whether an approval counts no longer."""
    return approval.until is not None and datetime.fromisoformat(approval.until) <= datetime.now(UTC)
