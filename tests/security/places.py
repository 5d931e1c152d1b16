"""Clients from different addresses of this machine: all of 127.0.0.0/8 is its own."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from harness.address import Address
from harness.pooler import Pooler
from harness.raw_client import RawClient, ServerRefusedError

HERE, THERE, ELSEWHERE = "127.0.0.1", "127.0.0.2", "127.0.0.3"


async def open_from(host: str, port: int) -> RawClient:
    """A connection from that address; nothing is sent."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(RawClient, "127.0.0.1", port, local_addr=(host, 0))
    return client


async def connect_from(host: str, address: Address, parameters: Mapping[str, str] | None = None) -> RawClient:
    """A logged-in client from that address; ServerRefusedError when the server says no."""
    client = await open_from(host, address.port)
    try:
        await client.login(address, parameters or {})
    except BaseException:
        client.abort()
        raise
    return client


async def refusal_from(host: str, address: Address) -> dict[str, str]:
    """The fields of the error that a login from that address ends with."""
    try:
        client = await connect_from(host, address)
    except ServerRefusedError as error:
        return error.fields
    client.abort()
    raise AssertionError("the login was good")


def log_lines(process: Pooler, event: str) -> list[str]:
    """The lines of the log with that event."""
    return [line for line in Path(process.log_path).read_text().splitlines() if f'"event": "{event}"' in line]
