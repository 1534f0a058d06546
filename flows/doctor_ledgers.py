"""What `shrink doctor` says of the models' ledgers: whether each is whole, signed, and followed by its aliases."""

from pathlib import Path

from flows import keys
from flows.doctor import Finding
from flows.servers import s3_config, services
from flows.settings import settings
from registry import ledger, listing, projection, runs, store
from registry.records import ShrinkError
from registry.standing import standing


def ledgers(home: Path) -> list[Finding]:
    """One finding for each model that is not well, or one for all; nothing where the servers do not answer."""
    found = services(home)
    s3, trust = store.connect(s3_config(found)), keys.trust(settings())
    registry = runs.connect(found.mlflow_uri)  # of this home: the environment may name none, or another
    ill: list[Finding] = []
    names = [name for name in listing.models(registry) if listing.ours(registry, name)]
    for name in names:
        try:
            entries = ledger.read(s3, found.bucket, name, registry, trust)
        except ledger.CorruptLedger as error:
            ill.append(Finding(name="ledger", state="broken", what=f"{error}", remedy="nothing is promoted until then"))
            continue
        wanted, seen = projection.following(registry, name, standing(entries)), projection.aliases(registry, name)
        wrong = [alias for alias, version in wanted.items() if seen.get(alias) != version]
        if entries and wrong:
            what = f"{name}: {', '.join(wrong)} not where the ledger has it"
            ill.append(Finding(name="ledger", state="warn", what=what, remedy=f"`shrink reconcile {name}`"))
    plural = "model" if len(names) == 1 else "models"
    return ill or [Finding(name="ledgers", state="ok", what=f"of {len(names)} {plural}, signed and followed")]


def examined(home: Path) -> list[Finding]:
    """The same; a server that does not answer is told elsewhere."""
    try:
        return ledgers(home)
    except (ShrinkError, RuntimeError, OSError) as error:
        return [Finding(name="ledgers", state="warn", what=f"not read: {error}", remedy="see the servers above")]
