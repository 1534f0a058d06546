"""kill -9 at every step of a deployment, of the server or of a version's process: the next start ends as it should.

The servers run in forks of one process without threads of its own (`python -m tests.flows.test_deploy_kills`), which
kill themselves before their n-th step, for n = 1, 2, … until one has made all; after each a second one is started.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi import HTTPException
from pydantic import BaseModel

from flows import keys, named
from flows.serve import asking, child, deployed, guarding, lanes, opening, serving, telling
from flows.serve.rollout import Options
from flows.servers import s3_config
from flows.settings import settings
from infra import services
from infra.services import current
from registry import ledger, promotion, runs, store, versions
from tests.flows.test_compress import ROOT
from tests.flows.test_deploy import put

MOST, SECONDS = 60, 60.0
STEPS: tuple[tuple[Any, str, int], ...] = (  # what is done, and how many of its times count
    (opening, "named", 1),
    (opening, "by_ledger", 2),
    (versions, "download", 1),
    (child, "within", 2),
    (opening, "predicted", 2),
    (serving, "place", 1),
    (lanes.Slot, "begin", 4),
    (asking, "compare", 1),
    (serving, "take_over", 1),
    (guarding, "back", 1),
    (os, "fsync", 4),
    (deployed, "told", 1),
    (telling, "rolled_back", 1),
    (telling, "sweep", 1),
)
PROCESS = {"within", "predicted", "compare", "take_over"}  # steps at which the process of a version is killed
BACK = {"back", "fsync", "told", "rolled_back"}  # steps of a way back, counted from the first of them on


class Plan(BaseModel):
    """A deployment that is to be killed: the version in place, the one that the ledger names, and where."""

    name: str
    first: str
    second: str
    folder: Path
    home: Path
    who: str  # dies: server or process
    rollback: bool


class End(BaseModel):
    """How a server ended, and what it left; `step`: before which it was killed."""

    step: str = ""
    serving: str | None = None
    refused: str | None = None
    trouble: str | None = None
    left: list[str] = []
    orphans: int = 0
    ledger: list[str] = []


@pytest.mark.parametrize(("who", "rollback"), [("server", False), ("process", False), ("server", True)])
def test_a_deployment_killed_at_any_step_ends_in_one_state(
    who: str, rollback: bool, client: Any, servers: services.Services, servers_home: Path,
    crown: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    name = f"cut-{who}-{rollback}".lower()
    first = put(client, name, tmp_path / "1", 1.0)
    second = put(client, name, tmp_path / "2", 3.0, unknown=9.0 if rollback else 0.0)  # wrong on live texts
    for version in (first, second):
        crown(name, version)
    plan = Plan(
        name=name, first=first, second=second, folder=tmp_path / "cut", home=servers_home, who=who, rollback=rollback
    )
    before = actions(servers, name)
    command = [sys.executable, "-m", "tests.flows.test_deploy_kills", plan.model_dump_json()]
    env = {**os.environ, **services.environment(servers, servers_home)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    ends = [End.model_validate(one) for one in json.loads(done.stdout.splitlines()[-1])]
    met = Counter(one.step for one in ends)
    every = {label for _, label, _ in STEPS} - {"back", "rolled_back"}
    assert set(met) == (PROCESS if who == "process" else BACK if rollback else every)
    for one in ends:
        assert one.orphans == 0 and one.trouble is None, one
        if rollback:
            assert (one.serving, one.ledger) == (first, ["rollback", first]), one
        else:
            assert one.ledger == [], one
            refused = who == "process" and one.refused is not None and "process" in one.refused
            assert one.serving == (first if refused else second), one
        assert set(one.left) <= {f"{name}-{first}", f"{name}-{second}", f"{name}@champion.json"}, one
    if not rollback:
        assert actions(servers, name) == before, "the ledger is people's"


def actions(servers: services.Services, name: str) -> list[str]:
    """Every entry of a ledger, by its digest."""
    return [one.own for one in ledger.read(store.connect(s3_config(servers)), servers.bucket, name)]


def counted(plan: Plan, number: int) -> None:
    """Count this process's steps from here on; before the n-th it, or each version's process, is killed."""
    met: list[str] = []

    def counts(label: str, most: int, given: tuple[Any, ...]) -> bool:
        if plan.who == "process" and label not in PROCESS:
            return False
        if plan.rollback and (label not in BACK or ("back" not in met and label != "back")):
            return False
        ready = label != "within" or given[1] is given[0].ready  # not of each golden text
        return ready and met.count(label) < most

    def wrapped(label: str, most: int, real: Callable[..., Any]) -> Callable[..., Any]:
        def made(*given: Any, **named: Any) -> Any:
            if counts(label, most, given):
                met.append(label)
                if len(met) == number:
                    killed(plan.who, label, plan.folder / "step")
            return real(*given, **named)

        return made

    for module, label, most in STEPS:
        setattr(module, label, wrapped(label, most, getattr(module, label)))


def killed(who: str, label: str, told: Path) -> None:
    """Kill -9, once it is written down before which step."""
    told.write_text(label)
    if who == "server":
        os.kill(os.getpid(), signal.SIGKILL)
    for one in psutil.Process().children():
        one.kill()


def deployed_by(plan: Plan, number: int) -> None:
    """Serve and ask in this process until all is decided and told; ends it."""
    registry, cache = runs.connect(os.environ["MLFLOW_TRACKING_URI"]), plan.folder / "cache"
    slot = lanes.Slot(name=plan.name, alias="champion", options=Options(shadow=2, canary=0.5, rollback=plan.rollback))
    counted(plan, number)
    asking.RETURN_SECONDS = 0.0  # nobody looks after processes while this one thread asks
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        serving.reconcile(registry, slot, cache)
        if slot.phase is None and settled(slot, plan):
            break
        if (lane := asking.chosen(slot)) is not None and not lane.child.gone:
            with contextlib.suppress(HTTPException):  # 503: its process was killed, and is looked after below
                asyncio.run(asking.answered(slot, lane, {"texts": ["xylograph bad film"]}))
            while slot.copies and time.monotonic() < until:
                time.sleep(0.002)
        guarding.guard(slot, cache)
    serving.reconcile(registry, slot, cache)  # what was decided last is told, and swept
    end = End(
        serving=slot.serving.served.version if slot.serving is not None else None,
        refused=slot.refused.why if slot.refused is not None else None,
        trouble=slot.trouble,
    )
    guarding.end(slot)
    (plan.folder / "end").write_text(end.model_dump_json())


def settled(slot: lanes.Slot, plan: Plan) -> bool:
    """Whether nothing more is to be decided."""
    if slot.serving is None:
        return False
    return slot.refused is not None or slot.serving.served.version == (plan.first if plan.rollback else plan.second)


def forked(plan: Plan, number: int) -> int:
    """A server in a fork, waited for; how many processes it left."""
    if process := os.fork():
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the server broke before step {number}"
        return orphans(process)
    code = 1
    try:
        deployed_by(plan, number)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def orphans(parent: int) -> int:
    """How many processes of versions still run for a server that has ended, after a while for them to go."""
    count, until = 1, time.monotonic() + 10
    while time.monotonic() < until:
        lines = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
        count = sum("tasks.answering" in line and line[-1] == str(parent) for line in lines)
        if not count:
            break
        time.sleep(0.02)
    return count


def cut(plan: Plan, number: int) -> End | None:
    """One deployment killed before its n-th step and started again; None when it has fewer."""
    shutil.rmtree(plan.folder, ignore_errors=True)
    shutil.copytree(plan.folder.with_name("template"), plan.folder / "cache")
    count = forked(plan, number)
    if not (plan.folder / "step").exists():
        return None
    if plan.who == "server":
        assert not (plan.folder / "end").exists()
        count += forked(plan, 0)
    end = End.model_validate_json((plan.folder / "end").read_text())
    left = sorted(path.name for path in (plan.folder / "cache").iterdir())
    return end.model_copy(update={"step": (plan.folder / "step").read_text(), "orphans": count, "left": left})


def main(plan: Plan) -> None:
    """Kill and start again for every n; prints how each ended."""
    found = current(plan.home)
    assert found is not None
    s3, registry = store.connect(s3_config(found)), runs.connect(found.mlflow_uri)
    template = plan.folder.with_name("template")
    named.by_ledger(registry, plan.name, plan.first, template / f"{plan.name}-{plan.first}")
    deployed.write(template / f"{plan.name}@champion.json", deployed.State(serving=plan.first))
    ends = list[End]()
    for number in range(1, MOST):
        known = len(ledger.read(s3, found.bucket, plan.name))
        if (end := cut(plan, number)) is None:
            break
        more = ledger.read(s3, found.bucket, plan.name)[known:]
        last = [more[-1].action, more[-1].target] if [one.event for one in more] == ["intent", "done"] else []
        ends.append(end.model_copy(update={"ledger": last or [one.action for one in more]}))
        if plan.rollback:
            where = (registry, s3, found.bucket, plan.home / "lock", plan.name)
            held = keys.of_ledger(settings())
            promotion.promote(*where, plan.second, "me", "a test", keys=held)
    print(json.dumps([one.model_dump() for one in ends]))


if __name__ == "__main__":
    main(Plan.model_validate_json(sys.argv[1]))
