"""`shrink doctor`: what is well and what is not, from the machine to the state, each with a remedy; imports no torch.

`broken` is what keeps a run from working; `warn` is what a person should know.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel

from registry.records import STRICT, ShrinkError, directory_bytes

DISTRIBUTION = "shrinking-frontier"
LEAST_DISK, LEAST_MEMORY = 2e9, 2e9  # bytes: state of a run of the shipped recipe; the largest stage
SUPPORTED = "supported is Linux on x86-64 with Python 3.11"


class Finding(BaseModel):
    """One line of the examination."""

    model_config = STRICT
    name: str
    state: Literal["ok", "warn", "broken"]
    what: str
    remedy: str | None = None


def examine(home: Path) -> list[Finding]:
    """All findings about this machine, the installation, and the state below `home`; changes nothing."""
    from flows.doctor_ledgers import examined

    answering = servers(home)
    well = all(one.state == "ok" for one in answering)  # else each question would wait for a server that is away
    return [
        python(),
        machine(),
        cores(),
        memory(),
        disk(home),
        torch_build(),
        *libraries(),
        *answering,
        signatures(home),
        *(examined(home) if well else []),
        state(home),
        runs(home),
    ]


def finding(name: str, fine: bool, what: str, remedy: str, otherwise: Literal["warn", "broken"] = "warn") -> Finding:
    """ok without a remedy, or the other state with it."""
    return Finding(name=name, state="ok" if fine else otherwise, what=what, remedy=None if fine else remedy)


def python() -> Finding:
    """The interpreter against what the package asks for."""
    fine = sys.version_info[:2] == (3, 11)
    return finding("python", fine, platform.python_version(), "make the environment with Python 3.11", "broken")


def machine() -> Finding:
    """Operating system and processor."""
    found = f"{platform.system()} {platform.machine()}"
    return finding("platform", found == "Linux x86_64", found, f"{SUPPORTED}; elsewhere nothing was tried")


def cores() -> Finding:
    """Cores this process may use."""
    count = len(os.sched_getaffinity(0))
    return finding("cores", count >= 2, f"{count}", "with one core a run takes twice as long; set SHRINK_THREADS=1")


def memory() -> Finding:
    """Memory that is free now."""
    found = psutil.virtual_memory()
    what = f"{found.available / 1e9:.1f} of {found.total / 1e9:.1f} GB available"
    return finding("memory", found.available >= LEAST_MEMORY, what, "close programs: a stage may take 2 GB")


def disk(home: Path) -> Finding:
    """Space where the state lies."""
    place = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    fine = free >= LEAST_DISK and os.access(place, os.W_OK)
    what = f"{free / 1e9:.1f} GB free for {home}" + ("" if os.access(place, os.W_OK) else ", not writable")
    return finding("disk", fine, what, "make room, or name another place with SHRINK_HOME", "broken")


def torch_build() -> Finding:
    """Whether torch is the CPU build, by what its package asks for and is called."""
    version = version_of("torch")
    if version is None:
        return Finding(name="torch", state="broken", what="not installed", remedy="install with `make install`")
    needs = importlib.metadata.requires("torch") or []
    cuda = "+cpu" not in version and ("+cu" in version or any(need.startswith("nvidia-") for need in needs))
    what = f"{version}, {'CUDA' if cuda else 'CPU'} build"
    remedy = "it works, but is gigabytes larger than needed; TORCH=... of make picks the CPU build"
    return finding("torch", not cuda, what, remedy)


def libraries() -> list[Finding]:
    """The direct dependencies: there, and in the versions that the package asks for or constraints.txt names."""
    missing, other = [], []
    wanted = constraints()
    for requirement in importlib.metadata.requires(DISTRIBUTION) or []:
        if "extra ==" in requirement:
            continue
        name = (re.match(r"[\w.-]+", requirement) or [""])[0]
        found = version_of(name)
        pinned = wanted.get(canonical(name))
        if found is None:
            missing.append(name)
        elif pinned and found.partition("+")[0] != pinned.partition("+")[0]:
            other.append(f"{name} {found} (tried: {pinned})")
    if missing:
        remedy = "install with `make install`"
        return [Finding(name="libraries", state="broken", what=f"missing: {', '.join(missing)}", remedy=remedy)]
    what = "as in constraints.txt" if wanted else "all there; no constraints.txt to compare with"
    remedy = "install with `pip install -c constraints.txt`"
    return [finding("libraries", not other, ", ".join(other) or what, remedy)]


def constraints() -> dict[str, str]:
    """{package: version} of the clone's constraints.txt; empty for an installation without one."""
    path = Path(__file__).parents[1] / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.split("==", 1) for line in lines if "==" in line and not line.startswith("#")]
    return {canonical(name): version.split(";")[0].strip() for name, version in pairs}


def canonical(name: str) -> str:
    """A package's name as all spellings agree on."""
    return re.sub(r"[-_.]+", "-", name).lower().strip()


def version_of(name: str) -> str | None:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def servers(home: Path) -> list[Finding]:
    """The three servers of this state directory."""
    from infra import services

    return [
        Finding(
            name=name,
            state="ok" if seen == "healthy" else "broken" if seen == "not answering" else "warn",
            what=seen,
            remedy=remedy_for(name, seen, home),
        )
        for name, seen in services.status(home).items()
    ]


def remedy_for(name: str, seen: str, home: Path) -> str | None:
    """What to do about a server's state."""
    if seen == "healthy":
        return None
    if seen == "stopped":
        return "`shrink up` starts it, `shrink run` too"
    return f"`shrink down && shrink up` starts it anew; its log is {home / 'logs' / f'{name}.log'}"


def signatures(home: Path) -> Finding:
    """The key that signs what is registered, and those that are trusted; never more of a key than its id."""
    from flows import keys
    from flows.settings import settings
    from infra.keys import folder

    here = settings().model_copy(update={"home": home})
    if here.signing_key is None and here.trusted_keys is None and not folder(home).exists():
        return Finding(name="keys", state="warn", what="none yet", remedy="`shrink up` makes one, `shrink run` too")
    try:
        trusted = [one.id[:12] for one in keys.trust(here).keys]
    except ShrinkError as error:
        return Finding(name="keys", state="broken", what=str(error), remedy="nothing registered is used until then")
    told = f"trusts {', '.join(trusted)}"
    try:
        return Finding(name="keys", state="ok", what=f"signs with {keys.ready(here).public.id[:12]}, {told}")
    except ShrinkError as error:
        return Finding(
            name="keys", state="warn", what=f"{told}; {error}", remedy="until then only what is there is used"
        )


def state(home: Path) -> Finding:
    """How much the state directory holds."""
    sizes = {name: directory_bytes(home / name) / 1e6 for name in ("cache", "s3", "sources", "runs")}
    what = ", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items())
    return Finding(name="state", state="ok", what=f"{home}: {what}")


def runs(home: Path) -> Finding:
    """Runs whose process is gone, failed runs, and journals that cannot be read."""
    from flows.journal import read, read_all

    unreadable = [path.parent.name for path in sorted((home / "runs").glob("*/run.json")) if read(path) is None]
    if unreadable:
        remedy = f"move the folder away: {home / 'runs' / unreadable[0]}"
        return Finding(name="runs", state="broken", what=f"journal of {unreadable[0]} is damaged", remedy=remedy)
    found: list[dict[str, Any]] = read_all(home)
    stopped = [run for run in found if run["status"] in {"crashed", "failed", "cancelled"}]
    what = f"{len(found)} in all" + "".join(f", {run['run_id']} {run['status']}" for run in stopped[-3:])
    return finding("runs", not stopped, what, "`shrink resume RUN` goes on with one")
