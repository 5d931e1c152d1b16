"""What an idle client costs: the growth of the proxy's resident memory by clients that have logged in and wait."""

import asyncio

from bench.proxies import Proxy
from harness.pooler import process_rss
from harness.raw_client import RawClient

_LOGINS_AT_ONCE = 20
_WARM_UP = 20  # logins and queries before: allocators and code paths then have what they keep


async def idle_kib_per_client(proxy: Proxy, clients: int) -> float:
    """KiB of RSS per idle client, over so many of them; each has run one query."""
    gate = asyncio.Semaphore(_LOGINS_AT_ONCE)

    async def log_in() -> RawClient:
        async with gate:
            client = await RawClient.connect(proxy.address)
            await client.values("select 1")
            return client

    for client in await asyncio.gather(*(log_in() for _ in range(_WARM_UP))):
        client.close()
    await asyncio.sleep(0.5)
    before = process_rss(proxy.pid)
    held = await asyncio.gather(*(log_in() for _ in range(clients)))
    await asyncio.sleep(0.5)
    after = process_rss(proxy.pid)
    for client in held:
        client.close()
    return (after - before) / clients / 1024
