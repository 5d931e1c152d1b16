"""One client of the mix-up check: everything it sends carries its tag, everything it receives must.

`TaggedClient` is the strict reader: the operations state the next message they expect, and any other one is a
`MixupError`. ParameterStatus alone may come at any time; the protocol allows that.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness import messages
from harness.address import Address
from harness.messages import Message, error_fields, row_values
from harness.raw_client import RawClient


class MixupError(AssertionError):
    """A reply that this client must not see: another one's, a wrong one, too many, too few."""


class KilledError(Exception):
    """The operation has killed its own client, as it meant to."""


@dataclass
class Session:
    """What a client has put into its session, as it should find it."""

    statements: dict[str, tuple[bytes, ...]] = field(default_factory=dict)  # name -> the columns before its parameter
    settings: dict[str, str] = field(default_factory=dict)


class TaggedClient:
    """A logged-in client with a tag of its own; `queries` counts its ReadyForQuery messages."""

    def __init__(self, raw: RawClient, address: Address, tag: str, table: str, rng: random.Random) -> None:
        self.raw = raw
        self.address = address
        self.session = Session()
        self.tag = tag
        self.value = tag.encode()
        self.table = table  # the run's table; its counter is `{table}_counter`
        self.rng = rng
        self.queries = 0
        self.cancels = 0
        self.committed_rows = 0  # rows of ours in the table, and steps of the counter: checked at the end
        self.committed_steps = 0
        self.uncertain_rows = 0  # sent with a commit whose answer we have not read (yet)
        self.uncertain_steps = 0

    def send(self, *parts: bytes) -> None:
        self.raw.send(*parts)

    async def expect(self, tag: bytes) -> bytes:
        """The body of the next message, which must be of that type."""
        received = await self._receive()
        if received.tag != tag:
            raise MixupError(f"expected {tag!r}, received {_shown(received)}")
        return received.body

    async def each(self, tags: bytes) -> None:
        """The next messages, which must be of these types and hold nothing to check."""
        for i in range(len(tags)):
            await self.expect(tags[i : i + 1])

    async def row(self, *values: bytes | None) -> None:
        """The next message: a row of exactly these values."""
        body = await self.expect(b"D")
        received = row_values(body)
        if received != list(values):
            raise MixupError(f"expected the row {_short(values)}, received {_short(received)}")

    async def complete(self, text: str) -> None:
        """The next message: CommandComplete with that text."""
        body = await self.expect(b"C")
        if body != messages.text(text):
            raise MixupError(f"expected {text!r} complete, received {body!r}")

    async def error(self, sqlstate: str) -> None:
        """The next message: an error with that SQLSTATE."""
        fields = error_fields(await self.expect(b"E"))
        if fields.get("C") != sqlstate:
            raise MixupError(f"expected the error {sqlstate}, received {fields.get('C')}: {fields.get('M')}")

    async def ready(self, status: bytes = b"I") -> None:
        """The next message: ReadyForQuery with that transaction status."""
        body = await self.expect(b"Z")
        if body != status:
            raise MixupError(f"expected the transaction status {status!r}, received {body!r}")
        self.queries += 1

    async def rows(self, *rows: Sequence[bytes | None]) -> None:
        """A described result of a simple query, up to its CommandComplete."""
        await self.expect(b"T")
        for row in rows:
            await self.row(*row)
        await self.complete(f"SELECT {len(rows)}")

    async def command(self, sql: str, complete: str, status: bytes) -> None:
        """A simple query without rows."""
        self.send(messages.query(sql))
        await self.complete(complete)
        await self.ready(status)

    async def ask(self, sql: str, *row: bytes | None, status: bytes = b"I") -> None:
        """A simple query with one row, which must be this one."""
        self.send(messages.query(sql))
        await self.rows(row)
        await self.ready(status)

    async def answer(self, sql: str, status: bytes) -> bytes | None:
        """The one value of a simple query, whatever it is."""
        self.send(messages.query(sql))
        await self.expect(b"T")
        value = row_values(await self.expect(b"D"))[0]
        await self.each(b"C")
        await self.ready(status)
        return value

    def kill(self) -> None:
        """Ends the connection without a word and tells the runner so."""
        self.raw.abort()
        raise KilledError

    async def _receive(self) -> Message:
        received = await self.raw.receive()
        while received.tag == b"S":
            received = await self.raw.receive()
        return received


def _short(values: Sequence[bytes | None]) -> str:
    return str([v if v is None or len(v) < 80 else v[:40] + b"..." + v[-40:] for v in values])


def _shown(received: Message) -> str:
    if received.tag in (b"E", b"N"):
        fields = error_fields(received.body)
        return f"{received.tag!r} {fields.get('C')}: {fields.get('M')}"
    return f"{received.tag!r} {received.body[:80]!r}"
