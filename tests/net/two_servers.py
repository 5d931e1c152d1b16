"""A pool of two servers, one of which is always held: a test says on which one its clients run."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from harness import messages
from harness.config import tenant
from harness.databases import Database
from harness.messages import Message, tags
from harness.raw_client import RawClient, ServerRefusedError
from harness.waiting import until
from net.poolers import NewPooler, is_at_rest, pool_status

if TYPE_CHECKING:
    from harness.pooler import Pooler
    from pgweir_contract.models import TenantEntry


class TwoServers:
    """`async with`: ends with the check that no server is lent any more."""

    def __init__(self, pooler: NewPooler, database: Database) -> None:
        self.database = database
        self.entry: TenantEntry = tenant(database, size=2)
        self.process: Pooler = pooler(self.entry)
        self._clients: list[RawClient] = []

    async def __aenter__(self) -> Self:
        self._holder, self._spare = [await RawClient.connect(self.process.address(self.entry)) for _ in range(2)]
        await self._holder.query("begin")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in (*self._clients, self._holder, self._spare):
            client.close()
        if kind is None:
            await until(lambda: is_at_rest(self.process, self.entry), "all at rest")

    async def connect(self, **parameters: str) -> RawClient:
        """A new client, with these in its startup message."""
        client = await RawClient.connect(self.process.address(self.entry), parameters)
        self._clients.append(client)
        return client

    async def switch(self) -> None:
        """Holds the server that was free, and frees the one that was held."""
        await self._spare.query("begin")
        await self._holder.query("commit")
        self._holder, self._spare = self._spare, self._holder

    async def release(self) -> None:
        """Holds none any more."""
        await self._holder.query("commit")

    @property
    def active(self) -> int:
        """How many servers are lent."""
        return pool_status(self.process, self.entry)["serversActive"]


async def answer(client: RawClient, sql: str, *, extended: bool = False) -> list[Message]:
    """The answer to a statement, by either protocol; ServerRefusedError when it fails."""
    client.send(messages.extended(sql) if extended else messages.query(sql))
    received = await client.receive_until(b"Z")
    for tag, body in received:
        if tag == b"E":
            raise ServerRefusedError(body)
    return received


async def run(client: RawClient, script: str, *, extended: bool = False) -> None:
    """Statements, divided by `;`, each by itself."""
    for sql in script.split(";"):
        await answer(client, sql, extended=extended)


async def one(client: RawClient, sql: str) -> str | None:
    """The only value of a query."""
    [[value]] = await client.values(sql)
    return None if value is None else value.decode()


def sqlstate(received: list[Message]) -> str:
    """Of the only error among the messages."""
    [body] = [body for tag, body in received if tag == b"E"]
    return messages.error_fields(body)["C"]


async def batch(client: RawClient, *parts: bytes) -> list[Message]:
    """What comes back for these messages and a Sync."""
    client.send(*parts, messages.SYNC)
    return await client.receive_until(b"Z")


__all__ = ["TwoServers", "answer", "batch", "one", "run", "sqlstate", "tags"]
