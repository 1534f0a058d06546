"""Re-use at the level of one stage, against the real S3: damaged, missing, unsent and re-made artifacts."""

import shutil
from collections import namedtuple
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import cache, obtain
from flows.settings import Settings
from infra.addresses import Services
from registry import footprint as fp
from registry import index, store
from registry.records import ShrinkError, StageRecord, digest_directory
from tasks import carbon
from tasks.data import DataConfig
from tasks.stage import run_stage
from tests.registry.samples import record as sample


@pytest.fixture
def shop(servers: Services, tmp_path: Path) -> obtain.Workshop:
    config = store.S3Config(
        endpoint=servers.s3_endpoint,
        bucket=servers.bucket,
        access_key=servers.access_key,
        secret_key=servers.secret_key,
    )
    here = Settings(home=tmp_path / "home", threads=1)
    meter: Future[carbon.Meter] = Future()
    meter.set_result(carbon.open_meter(None, tmp_path / "samples.jsonl", lock=tmp_path / "slot"))
    return obtain.Workshop(here, store.connect(config), servers.bucket, tmp_path / "home" / "runs" / "one", 0, meter)


@pytest.fixture
def made(shop: obtain.Workshop, tmp_path: Path) -> StageRecord:
    """A stage's artifact in the cache, its record noted but not on S3."""
    out = tmp_path / "home" / "runs" / "one" / "02-prune" / "out"
    out.mkdir(parents=True)
    (out / "weights.bin").write_text(str(tmp_path))
    digest = digest_directory(out)
    record = sample().model_copy(update={"kind": "prune", "digest": digest, "key": digest[::-1], "measured": {}})
    cache.keep(shop.settings.home, out, digest)
    assert (out / "weights.bin").read_text() == str(tmp_path), "the run's folder still shows its artifact"
    cache.note(shop.settings.home, record, sent=False)
    return record


def damage(shop: obtain.Workshop, record: StageRecord) -> Path:
    path = cache.path_of(shop.settings.home, record.digest)
    (path / "weights.bin").write_text("damaged")
    shop.digests.clear()  # what another run would know
    return path


def test_a_damaged_cache_is_taken_from_s3_and_refused_when_that_is_damaged_too(
    shop: obtain.Workshop, made: StageRecord
) -> None:
    obtain.publish(shop, made)
    assert obtain.reuse(shop, made.key) == made.model_copy(update={"cached": True})
    path = damage(shop, made)
    assert obtain.reuse(shop, made.key) and digest_directory(path) == made.digest
    sha = str(store.manifest(shop.s3, shop.bucket, made.digest)["weights.bin"]["sha256"])
    shop.s3.put_object(Bucket=shop.bucket, Key=f"blobs/{sha[:2]}/{sha}", Body=b"x" * 7)
    damage(shop, made)
    assert obtain.reuse(shop, made.key) is None and not path.exists()


def test_what_is_only_on_s3_is_fetched(shop: obtain.Workshop, made: StageRecord) -> None:
    obtain.publish(shop, made)
    shutil.rmtree(shop.settings.home)
    shop.digests.clear()
    assert obtain.reuse(shop, made.key) is not None
    assert digest_directory(cache.path_of(shop.settings.home, made.digest)) == made.digest
    assert cache.recall(shop.settings.home, made.key) == (made, True)


def test_work_finished_while_s3_is_away_is_kept_and_sent_later(
    shop: obtain.Workshop, made: StageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import EndpointConnectionError

    with monkeypatch.context() as patch:
        away = store.connect(
            store.S3Config(endpoint="http://127.0.0.1:9", bucket=shop.bucket, access_key="a" * 9, secret_key="b" * 9)
        )
        patch.setattr("time.sleep", lambda seconds: None)  # the retries' pauses
        patch.setattr(shop, "s3", away)
        with pytest.raises(EndpointConnectionError):
            obtain.publish(shop, made)
    assert cache.recall(shop.settings.home, made.key) == (made, False)
    assert index.lookup(shop.s3, shop.bucket, made.key) is None
    assert obtain.reuse(shop, made.key) is not None
    assert cache.recall(shop.settings.home, made.key) == (made, True)
    assert index.lookup(shop.s3, shop.bucket, made.key) == made and store.has(shop.s3, shop.bucket, made.digest)


def test_a_record_that_cannot_be_read_counts_as_absent(shop: obtain.Workshop, made: StageRecord) -> None:
    (shop.settings.home / "index" / "unsent" / f"{made.key}.json").write_text("{half")
    assert cache.recall(shop.settings.home, made.key) == (None, False)


def test_damaged_local_data_is_made_again_with_the_same_digest(
    shop: obtain.Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtain, "run_stage", run_stage.fn)
    monkeypatch.setattr("tasks.carbon.open_meter", no_meter)
    (tmp_path / "source").mkdir()
    lines = [f"{n}\t{1 if n % 2 else -1}\tsentence {n} is word{n} and more{n * n}" for n in range(1, 200)]
    (tmp_path / "source" / "rated.txt").write_text("\n".join(lines))
    config = DataConfig(kind="data", file="rated.txt", format="rated", max_length=16)
    first = obtain.obtain(shop, config, "data", {"source": tmp_path / "source"})
    digest = digest_directory(first)
    assert digest == first.name == shop.records[-1].digest
    changed = next(path for path in first.iterdir() if path.is_file())
    changed.write_text("damaged")
    shop.digests.clear()
    again = obtain.obtain(shop, config, "data", {"source": tmp_path / "source"})
    assert [record.cached for record in shop.records] == [False, False] and digest_directory(again) == digest
    obtain.obtain(shop, config, "data", {"source": tmp_path / "source"})
    assert shop.records[-1].cached


def zygotes() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "tasks.zygote" in one.cmdline()]


def test_a_stage_that_is_killed_counts_beside_the_one_made_in_its_place(
    shop: obtain.Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtain, "run_stage", run_stage.fn)
    folder = tmp_path / "home" / "runs" / "one"
    shop.meter = Future()
    shop.meter.set_result(carbon.open_meter(None, folder / "samples.jsonl", lock=tmp_path / "slot"))
    (tmp_path / "source").mkdir()
    lines = [f"{n}\t{1 if n % 2 else -1}\tsentence {n} is word{n} and more{n * n}" for n in range(1, 10_000)]
    (tmp_path / "source" / "rated.txt").write_text("\n".join(lines))
    config = DataConfig(kind="data", file="rated.txt", format="rated", max_length=16)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(obtain.obtain, shop, config, "data", {"source": tmp_path / "source"})
        while not (folder / "00-data" / "out.partial").is_dir():
            assert not made.done(), "the stage did not begin"
        next(one for zygote in zygotes() for one in zygote.children()).kill()
        with pytest.raises(RuntimeError, match="ended with status -9"):
            made.result()
    (attempt,) = obtain.attempts(shop)
    assert attempt.ended == "failed" and attempt.stage == "00-data" and attempt.footprint.kwh is not None
    obtain.obtain(shop, config, "data", {"source": tmp_path / "source"})
    assert obtain.attempts(shop) == [attempt]
    spent = fp.spent(shop.records, obtain.attempts(shop))
    assert spent.stages == 2 and spent.kwh is not None and shop.records[0].footprint.kwh is not None
    assert spent.kwh.central == attempt.footprint.kwh.central + shop.records[0].footprint.kwh.central


def no_meter(country: str | None, samples: Path, **more: Any) -> Any:
    """A meter that measures nothing: CodeCarbon has tests of its own."""
    from tasks.carbon import Meter

    return Meter(tracker=None, tiers={}, samples=samples)


def test_a_stage_without_room_is_refused_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "input").mkdir()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5_000_000))
    with pytest.raises(ShrinkError, match=r"about 100 MB in '.*' and 5 MB are free; make room there"):
        obtain.check_room(tmp_path, "03-label", {"data": tmp_path / "input"})
