"""The pooler's harness: real processes start and report, and whatever ends badly fails the test that ran it."""

import textwrap
from collections.abc import Callable

import pytest

from harness.config import cluster as make_cluster
from harness.config import files, revision, tenant
from harness.databases import Database
from harness.pooler import Pooler, PoolerBrokenError
from harness.raw_client import RawClient
from harness.waiting import until

# Stands in for the pooler: says it is ready, and ends as the test wants.
_STAND_IN = """
    import signal, socket, sys
    listener = socket.socket(fileno=int(sys.argv[sys.argv.index("--http-fd") + 1]))
    listener.listen()
    {on_start}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
    while True:
        with listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
"""


def _stand_in(on_start: str = "pass", code: int = 0) -> Pooler:
    script = textwrap.dedent(_STAND_IN).format(on_start=on_start, code=code)
    return Pooler({}, program=("-W", "ignore", "-c", script))


def test_a_good_end_is_silent_and_leaves_nothing() -> None:
    process = _stand_in()
    process.start()
    folder = process.log_path.parent
    process.stop()
    assert not process.is_running
    assert not folder.exists()


def test_a_bad_exit_code_fails() -> None:
    process = _stand_in(code=3)
    process.start()
    with pytest.raises(PoolerBrokenError, match="exit code 3"):
        process.stop()


def test_a_traceback_in_the_log_fails() -> None:
    process = _stand_in(on_start="import traceback; print('Traceback (most recent call last)', flush=True)")
    process.start()
    with pytest.raises(PoolerBrokenError, match="most recent call last"):
        process.stop()


def test_an_early_end_shows_the_log() -> None:
    process = _stand_in(on_start="sys.exit('no such tenant')")
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
