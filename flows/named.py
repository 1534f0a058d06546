"""What MODEL@ALIAS names: the version, fetched and verified, what it says of itself, and what it answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import grams, keys, units
from flows.reporting.drawn import moment
from flows.sentences import admission
from flows.servers import client, s3_config, services
from flows.settings import settings
from registry import attested, contents, promotion, provenance, store, versions
from registry.carbon.inputs import basis
from registry.records import ShrinkError
from registry.standing import standing
from tasks import pairs
from tasks.pairs import Text


def split_name(model: str) -> tuple[str, str]:
    """MODEL@ALIAS (or MODEL@VERSION) in its two parts; without one, champion is meant. Raises ShrinkError."""
    return contents.split_name(model)


def fetched(model: str, home: Path) -> tuple[str, Path]:
    """A version and its verified local directory (model/ and evidence/).

    An alias that the ledger projects must be where the signed ledger has it. Raises ShrinkError where it is not.
    """
    name, wanted = split_name(model)
    version = versions.resolve(client(), name, wanted)
    if wanted in {promotion.CHAMPION, promotion.PREVIOUS}:
        agreed(name, wanted, version)
    return version, by_ledger(client(), name, version, home / "models" / name / version)


def agreed(name: str, alias: str, version: str) -> None:
    """Raise ShrinkError unless a model's signed ledger has an alias where MLflow has it."""
    here = settings()
    found = services(here.home)
    s3 = store.connect(s3_config(found))
    now = standing(promotion.history(s3, found.bucket, name, client(), keys.trust(here)))
    named = now.champion if alias == promotion.CHAMPION else now.previous
    if named != version:
        raise ShrinkError(
            f"alias '{alias}' of model {name} is at version {version} in MLflow and at {named or 'none'} in its signed "
            f"ledger; `shrink reconcile {name}` mends that, or name {name}@{version}."
        )


def by_ledger(registry: Any, name: str, version: str, dest: Path) -> Path:
    """A version in `dest`, verified against the ledger's digest, or against its tag if it was never promoted.

    And by its signature, with the keys that are trusted here. Raises CorruptVersion when the registry holds something
    else.
    """
    here = settings()
    found = services(here.home)
    s3, trust = store.connect(s3_config(found)), keys.trust(here)
    digest = promotion.digest_of(s3, found.bucket, name, version, registry, trust)
    return versions.fetch(registry, name, version, dest, trust, digest)


def describe(model: str) -> dict[str, Any]:
    """All that `shrink show` says of a version."""
    version, directory = fetched(model, settings().home)
    name, _ = split_name(model)
    facts: dict[str, Any] = json.loads((directory / "evidence" / "show.json").read_text())
    seen = versions.describe(client(), name, version)
    here, told = settings(), dict[str, Any]()
    told["verdict"] = attested.verdict(directory).model_dump(mode="json")
    told["admission"] = admission(client().get_model_version(name, version).tags)
    key, when = provenance.signed(attested.provenance(directory))
    if here.carbon or here.country:  # the grid may be known by now, or other factors
        given = basis(here.carbon, here.country)
        told["footprint"] = grams.emitted(facts["footprint"], moment(str(when)), given)
    return {"version": version, "aliases": seen["aliases"]} | facts | told | {"signed": {"key": key, "when": when}}


def predictions(model: str, texts: list[str], home: Path, others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Label and probability of each text by a registered version; of an embedding model each text's embedding.

    `others` are the second texts of pairs. Of a model of several labels a text: those over one half, and all
    probabilities. Raises ShrinkError when the model answers pairs and there are none, or the other way round.
    """
    from tasks import runtime

    _, directory = fetched(model, home)
    config = runtime.settings(directory / "model")
    if runtime.task(directory / "model") == "generate":
        raise ShrinkError(f"model '{model}' writes text: ask it with {units.WRITES}.")
    if bool(config.get("pairs")) != bool(others):
        what = "pairs: give each text's second one with --pair" if config.get("pairs") else "single texts: drop --pair"
        raise ShrinkError(f"model '{model}' answers {what}.")
    asked: list[Text] = list(zip(texts, others, strict=True)) if others else list(texts)
    rows = runtime.predict(directory / "model", asked)
    if runtime.task(directory / "model") == "embed":
        return [{"text": text, "embedding": row} for text, row in zip(texts, rows.tolist(), strict=True)]
    given = [pairs.apart({"text": text}) for text in asked]
    return [one | answer for one, answer in zip(given, runtime.answers(rows, config), strict=True)]
