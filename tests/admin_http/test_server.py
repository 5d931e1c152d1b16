"""The ports: who gets which answer, and how they end."""

import asyncio
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from admin_http.process import Process, listening_socket, started
from pgweir_pooler.admin_http import start_admin
from pgweir_pooler.admin_http.server import Admin, is_loopback

if TYPE_CHECKING:
    from pgweir_pooler.admin_http.view import State


async def test_livez_answers_in_every_state() -> None:
    process = Process()
    async with started(process) as ports:
        states: tuple[State, ...] = ("Starting", "Serving", "Draining")
        for state in states:
            process.state = state
            async with ports.client.get(f"{ports.http}/livez") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")


@pytest.mark.parametrize(
    ("state", "status", "text"),
    [("Starting", 503, "Starting\n"), ("Serving", 200, "ok\n"), ("Draining", 503, "Draining\n")],
)
async def test_readyz_is_200_only_while_serving(state: Any, status: int, text: str) -> None:
    process = Process()
    process.state = state
    async with started(process) as ports, ports.client.get(f"{ports.http}/readyz") as answer:
        assert (answer.status, await answer.text()) == (status, text)


async def test_each_port_has_its_own_paths() -> None:
    async with started(Process()) as ports:
        for url in (
            f"{ports.http}/status",
            f"{ports.http}/",
            f"{ports.control}/metrics",
            f"{ports.control}/livez",
        ):
            async with ports.client.get(url) as answer:
                assert answer.status == 404, url


async def test_other_methods_get_405() -> None:
    async with started(Process()) as ports:
        for url in (f"{ports.http}/livez", f"{ports.http}/metrics", f"{ports.control}/status"):
            async with ports.client.post(url) as answer:
                assert answer.status == 405, url


async def test_a_large_header_is_refused() -> None:
    async with started(Process()) as ports:
        async with ports.client.get(f"{ports.http}/livez", headers={"X-Large": "x" * 5000}) as answer:
            assert answer.status == 400
        many = {f"X-{i}": "1" for i in range(100)}
        async with ports.client.get(f"{ports.http}/livez", headers=many) as answer:
            assert answer.status == 400


async def test_answers_do_not_tell_versions_of_the_software() -> None:
    async with started(Process()) as ports:
        for path in ("/livez", "/nothing"):
            async with ports.client.get(ports.http + path) as answer:
                assert "Server" not in answer.headers


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with started(Process()) as ports:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(ports.http.rpartition(":")[2]))
        for _ in range(2):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(3) == b"ok\n"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


async def _control_answer(peer: object) -> int:
    """What the control port's code answers to a peer; requests from elsewhere cannot be made on 127.0.0.1."""
    app = Admin(Process())._control_app()
    transport = Mock()
    transport.get_extra_info.side_effect = lambda key, default=None: peer if key == "peername" else default
    request = make_mocked_request("GET", "/status", app=app, transport=transport)
    app.freeze()
    try:
        answer = await app._handle(request)
    except web.HTTPException as refusal:
        return refusal.status
    assert isinstance(answer, web.Response)
    return answer.status


async def test_the_control_port_answers_loopback_peers_alone() -> None:
    assert await _control_answer(("127.0.0.1", 5000)) == 200
    assert await _control_answer(("10.1.2.3", 5000)) == 403
    assert await _control_answer(("fe80::1", 5000, 0, 2)) == 403
    assert await _control_answer("") == 403
    assert await _control_answer(None) == 403


async def test_closing_is_quick_with_idle_and_half_sent_requests() -> None:
    (http_socket, http), (control_socket, _) = listening_socket(), listening_socket()
    admin = await start_admin(Process(), http_socket=http_socket, control_socket=control_socket)
    port = int(http.rpartition(":")[2])
    idle_reader, idle = await asyncio.open_connection("127.0.0.1", port)
    idle.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    await idle_reader.readuntil(b"ok\n")
    half_reader, half = await asyncio.open_connection("127.0.0.1", port)
    half.write(b"GET /livez HT")
    began = time.monotonic()
    await admin.close()
    assert time.monotonic() - began < 5  # aiohttp's own default would be 60
    assert await idle_reader.read() == b""
    assert await half_reader.read() == b""
    for writer in (idle, half):
        writer.close()
        await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_that_cannot_listen_leaves_nothing_open() -> None:
    (http_socket, http), (control_socket, _) = listening_socket(), listening_socket()
    control_socket.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await start_admin(Process(), http_socket=http_socket, control_socket=control_socket)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(http.rpartition(":")[2]))
