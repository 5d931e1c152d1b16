"""The pooler's harness: real processes start and report, and whatever ends badly fails the test that ran it."""

from collections.abc import Callable

import pytest

from harness.config import cluster as make_cluster
from harness.config import files, revision, tenant
from harness.databases import Database
from harness.pooler import Pooler, PoolerBrokenError
from harness.raw_client import RawClient
from harness.stand_in import stand_in
from harness.waiting import until


def test_a_good_end_is_silent_and_leaves_nothing() -> None:
    process = stand_in()
    process.start()
    folder = process.log_path.parent
    process.stop()
    assert not process.is_running
    assert not folder.exists()


def test_a_bad_exit_code_fails() -> None:
    process = stand_in(code=3)
    process.start()
    with pytest.raises(PoolerBrokenError, match="exit code 3"):
        process.stop()


def test_a_traceback_in_the_log_fails() -> None:
    process = stand_in(on_start="import traceback; print('Traceback (most recent call last)', flush=True)")
    process.start()
    with pytest.raises(PoolerBrokenError, match="most recent call last"):
        process.stop()


def test_an_early_end_shows_the_log() -> None:
    process = stand_in(on_start="sys.exit('no such tenant')")
    with pytest.raises(PoolerBrokenError, match="no such tenant"):
        process.start()
    process.expects_failure = True
    process.stop()


async def test_a_real_pooler_serves_reports_and_reloads(database18: Database, pooler: Callable[..., Pooler]) -> None:
    entry = tenant(database18, size=2)
    process = pooler(entry)
    client = await RawClient.connect(process.address(entry))
    assert await client.values("select 1") == [[b"1"]]
    assert process.status()["pid"] == process.pid
    assert process.metrics()
    assert process.rss() > 1 << 20
    changed = make_cluster(default_tenant="acme")
    process.write(files([entry], changed))
    await until(lambda: process.status()["revisions"]["cluster.json"] == revision(changed), "the new revision")
    client.close()


def test_a_pooler_restarts_on_the_same_ports(database18: Database, pooler: Callable[..., Pooler]) -> None:
    process = pooler(tenant(database18))
    port, pid = process.port(), process.pid
    assert process.terminate() == 0
    process.start()
    assert (process.port(), process.is_ready()) == (port, True)
    assert process.pid != pid
