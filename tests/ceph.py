"""A real Ceph with its S3 gateway on loopback, in memory, for tests: the strict one among the S3s.

`apt-get install ceph-mon ceph-osd radosgw` brings the programs; where they are not, tests that want it are skipped.
"""

import secrets
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from infra.addresses import HOST, bind
from registry.store import S3Config

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool")
SETTINGS = """[global]
fsid = {fsid}
mon host = v2:{host}:{mon}/0
ms bind port min = {low}
ms bind port max = {high}
public addr = {host}
cluster addr = {host}
run dir = {home}
admin socket = {home}/$name.asok
log file = {home}/$name.log
keyring = {home}/keyring
mon data = {home}/mon
osd data = {home}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
rgw frontends = beast endpoint={host}:{rgw}
"""
KEYS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx"},
}


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def running(home: Path, seconds: float = 180.0) -> Iterator[S3Config]:
    """One monitor, one store in memory, one gateway; all are gone afterwards."""
    mon, rgw, *span = ports(2)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    access, secret = secrets.token_hex(10), secrets.token_hex(20)
    conf = home / "ceph.conf"
    conf.write_text(SETTINGS.format(fsid=fsid, host=HOST, mon=mon, rgw=rgw, home=home, low=span[0], high=span[0] + 90))
    for name, caps in KEYS.items():
        words = [word for what, cap in caps.items() for word in ("--cap", what, cap)]
        make = ["--create-keyring"] if name == "mon." else []
        run("ceph-authtool", *make, str(home / "keyring"), "--gen-key", "-n", name, *words)
    run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:{HOST}:{mon}/0]", str(home / "monmap"))
    common = ("-c", str(conf))
    run("ceph-mon", *common, "--mkfs", "-i", "a", "--monmap", f"{home}/monmap", "--keyring", f"{home}/keyring")
    (home / "osd").mkdir()
    with ExitStack() as stack:
        stack.enter_context(daemon(home, "ceph-mon", *common, "-f", "-i", "a"))
        run("ceph", *common, "osd", "new", osd)
        run("ceph-osd", *common, "--mkfs", "-i", "0", "--osd-uuid", osd)
        stack.enter_context(daemon(home, "ceph-osd", *common, "-f", "-i", "0"))
        stack.enter_context(daemon(home, "radosgw", *common, "-f", "-n", "client.rgw"))
        wait(f"http://{HOST}:{rgw}", seconds)
        key = ("--access-key", access, "--secret-key", secret)
        run("radosgw-admin", *common, "user", "create", "--uid", "tests", "--display-name", "tests", *key)
        yield S3Config(endpoint=f"http://{HOST}:{rgw}", bucket="shrink", access_key=access, secret_key=secret)


def ports(number: int) -> list[int]:
    """So many free ports, and one more that begins a range."""
    holders = [holder for _ in range(number + 1) if (holder := bind(0)) is not None]
    found = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return [*found[:-1], min(found[-1], 65000)]


def run(*words: str) -> None:
    """A program that ends by itself; what it said when it failed."""
    made = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if made.returncode:
        raise RuntimeError(f"{' '.join(words)}: {made.stderr[-800:]}")


@contextmanager
def daemon(home: Path, *words: str) -> Iterator[None]:
    """A program that goes on until the block ends."""
    with (home / f"{words[0]}.out").open("wb") as output:
        started = subprocess.Popen(words, stdout=output, stderr=output, cwd=home)
        try:
            yield
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def wait(address: str, seconds: float) -> None:
    """Return once the gateway answers."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            if httpx.get(address, timeout=3, trust_env=False).status_code < 500:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise RuntimeError(f"the gateway at {address} did not answer in {seconds:g} s")
