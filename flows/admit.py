"""Before any promotion: the registered version, fetched into a clean place, must still be what its gate passed.

`admitted` is asked by `shrink run` and by `shrink promote` alike. Each demand is one Check: digests and signature
(registry/versions.fetch), the evidence (registry/admission.py), and the model itself in a clean process
(tasks/reload.py): golden answers, scores on the rows where they are at hand, sizes. What fails is a result with its
reason; only what has nothing to do with the version (servers away, a full disk) raises.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from pydantic import BaseModel, ValidationError

from flows import cache, keys
from flows.obtain import Workshop, obtain
from flows.recipe import Recipe, digest_of
from flows.servers import client, s3_config, services
from flows.settings import settings, worker_environment
from registry import admission, contents, promotion, signing, store, versions
from registry.records import STRICT, Check, ShrinkError, digest_directory
from registry.standing import standing
from tasks import rescore
from tasks.reload import ReloadConfig
from tasks.stage import StageCall, run_stage

REASON_TAG, ADMITTED = "shrink.admission_why", "admitted"
GROWS = 12  # times a model's bytes that its reload may hold, for graphs that ask for terabytes
LEAST_MB = 3000.0  # that every reload may hold
TAG_CHARS = 4000  # MLflow keeps 5,000 of a tag
CRASHES = ("MB, over its limit", "status -4", "status -6", "status -7", "status -8", "status -11")  # by what was opened


class Admission(BaseModel):
    """What was demanded of a version before its promotion, and how each demand ended."""

    model_config = STRICT
    model: str
    version: str
    digest: str | None  # of model/, of a version that could be fetched
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether it may be promoted."""
        return bool(self.checks) and all(one.passed for one in self.checks)

    @property
    def why(self) -> str:
        """The failed demands with their reasons; empty when there are none."""
        return "; ".join(f"{one.name}: {one.why}" for one in self.checks if not one.passed)

    @property
    def left_out(self) -> str:
        """The demands that could not be made here, which let it pass; empty when there are none."""
        return left_out(one.model_dump() for one in self.checks)


def left_out(checks: Iterable[Mapping[str, Any]]) -> str:
    """The same of checks as records have them."""
    known = (one for one in checks if one["passed"] and str(one["why"]).startswith(rescore.NOT))
    return "; ".join(f"{one['name']}: {one['why']}" for one in known)


def admitted(name: str, version: str, shop: Workshop | None = None, forced: bool = False) -> Admission:
    """Every check of a registered version; the result is marked on the version in MLflow for people to see.

    In a run the workshop gives place, meter and index to the reload. `forced` lets a failed gate pass, for a person who
    answers for it, and nothing else. Raises ShrinkError for a version that does not exist.
    """
    home = settings().home
    place = shop.directory / "fetched" if shop else home / "admission" / f"{name}-{version}"
    (home / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(home / "locks" / f"admission-{name}-{version}.lock"):  # two people at once: one after the other
        shutil.rmtree(place, ignore_errors=True)
        try:
            found = tuple(checks(name, version, place, shop, forced))
            digest = digest_directory(place / "model") if (place / "model").is_dir() else None
        finally:
            if shop is None:
                shutil.rmtree(place, ignore_errors=True)
    result = Admission(model=name, version=version, digest=digest, checks=found)
    mark(result)
    return result


def mark(result: Admission) -> None:
    """Write the result to the version's tags; all that reads them back is the choice of the alias `challenger`."""
    tagged(result.model, result.version, ADMITTED if result.passed else versions.REFUSED, result.why or result.left_out)


def mark_refused(name: str, version: str, why: str) -> None:
    """Mark a version that was admitted and that the ledger then spoke against."""
    tagged(name, version, versions.REFUSED, why)


def tagged(name: str, version: str, word: str, why: str) -> None:
    """Set the tags of an admission."""
    for tag, value in {versions.ADMISSION_TAG: word, REASON_TAG: why[:TAG_CHARS]}.items():
        client().set_model_version_tag(name, version, tag, value)


def checks(name: str, version: str, place: Path, shop: Workshop | None, forced: bool) -> Iterator[Check]:
    """The checks in order; what would be read after one of them failed is left alone."""
    trust = keys.trust(settings())
    try:
        versions.fetch(client(), name, version, place, trust, known_digest(name, version, shop))
        seal = signing.verify(name, place, trust)
    except (versions.CorruptVersion, signing.Unverified) as error:
        yield admission.check(demand_of(error), False, f"{error}")
        return
    for what in ("digest", "signature"):
        yield admission.check(what, True, {"digest": "files are those it names"}.get(what, f"by {seal.key[:12]}"))
    recipe = recipe_of(place)
    digest = digest_directory(place / "model")
    reigning, now = champion(name, digest), datetime.now(UTC)
    asked = admission.Asked(model=name, digest=digest, key=seal.key, now=now, reigning=reigning, forced=forced)
    sound = True
    for one in admission.checks(place, asked, (recipe[0], recipe[1].gate) if recipe else None):
        sound = sound and one.passed
        yield one
    if sound and recipe is not None:  # nothing is opened of a version that does not hold together
        yield from reloaded(place, recipe[1], shop)


def champion(name: str, digest: str) -> str | None:
    """The digest of the champion that a model would replace, by the ledger; None where that is the same, or none."""
    found = services(settings().home)
    s3 = store.connect(s3_config(found))
    now = standing(promotion.history(s3, found.bucket, name, trust=keys.trust(settings())))
    reigns = None if now.champion is None else now.digests[now.champion]
    return None if reigns == digest else reigns


def known_digest(name: str, version: str, shop: Workshop | None) -> str | None:
    """The digest that the version must have: what this run judged, or what the ledger has of it."""
    if shop is not None:
        return next(record for record in shop.records if record.kind == "evaluate").inputs["student"]
    found = services(settings().home)
    s3 = store.connect(s3_config(found))
    return promotion.digest_of(s3, found.bucket, name, version, trust=keys.trust(settings()))


def demand_of(error: Exception) -> str:
    """The demand that a version failed which could not even be fetched."""
    cause = error if error.__cause__ is None else error.__cause__
    if isinstance(cause, signing.Unverified):
        return "signature"
    return "files" if isinstance(cause, contents.Foreign) and "digest" not in str(cause) else "digest"


def recipe_of(place: Path) -> tuple[str, Recipe] | None:
    """Digest and recipe in a version's statement of provenance; None where there is none that can be read.

    The digest is of what is written there, not of how this code would write it: that may know more fields.
    """
    from registry import attested

    with contextlib.suppress(attested.Incomplete, LookupError, TypeError, ValidationError, ShrinkError):
        said = attested.provenance(place)["predicate"]["buildDefinition"]["externalParameters"]["recipe"]
        recipe = Recipe.model_validate(said)
        return digest_of(said), recipe
    return None


def reloaded(place: Path, recipe: Recipe, shop: Workshop | None) -> Iterator[Check]:
    """What the model itself does, in a clean process that knows no secret of S3 or MLflow."""
    inputs = {"model": place / "model", "golden": place / "evidence"} | at_hand(place)
    config = ReloadConfig(evaluate=recipe.evaluate)
    try:
        if shop is not None:
            obtain(shop, config, "reload", inputs)
            measured = shop.records[-1].measured
        else:
            measured = alone(place, config, inputs, recipe.seed)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in CRASHES):
            raise
        yield admission.check("reload", False, f"{error}")
        return
    yield from (Check.model_validate(one) for one in measured["checks"])


def at_hand(place: Path) -> dict[str, Path]:
    """Data and teacher that the evaluation read, where the local cache has them, whole."""
    from registry import attested

    stages = admission.byproducts(attested.provenance(place))
    judged = next((one for one in stages if str(one.get("name")).startswith("evaluate")), None)
    found = {}
    for role in ("data", "teacher"):
        digest = str(judged["annotations"]["inputs"].get(role, "")) if judged else ""
        path = cache.path_of(settings().home, digest)
        if digest and path.is_dir() and digest_directory(path) == digest:
            found[role] = path
    return found


def alone(place: Path, config: ReloadConfig, inputs: dict[str, Path], seed: int) -> dict[str, Any]:
    """The reload outside of a run: the same process, without meter and index."""
    here = settings()
    size = sum(path.stat().st_size for path in (place / "model").iterdir()) / 1e6
    most = min(max(LEAST_MB, GROWS * size), psutil.virtual_memory().total * 0.9 / 1e6)
    call = StageCall(
        name="reload",
        config=config.model_dump(mode="json"),
        inputs={role: str(path) for role, path in inputs.items()},
        directory=str(place.with_name(f"{place.name}-reload")),
        seed=seed,
        threads=here.threads,
        environment=worker_environment(here.threads),
        time_limit=here.time_limit,
        memory_limit_mb=here.memory_mb or most,
    )
    try:
        return run_stage.fn(call).measured
    finally:
        shutil.rmtree(call.directory, ignore_errors=True)
