"""One client of the demo: logs in, then asks for a tag of its own, checks the answer, thinks, and asks again.

Callbacks only, for a thousand of them share a core with the pooler and PostgreSQL. What it sees goes into the
`Tally` of its tenant; after an error it is over and does not come back.
"""

import asyncio
import math
import random
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, cast

from pgweir_operator.demo_scram import SaltedPasswords, ScramExchange

_TERMINATE: Final = b"X\0\0\0\4"
_PROTOCOL_3_0: Final = (3 << 16).to_bytes(4, "big")
_BUCKET_RATIO: Final = math.log(1.05)  # latency buckets grow by 5 %, so a quantile is at most 5 % off
_EXAMPLES_KEPT: Final = 5


@dataclass(frozen=True, slots=True)
class Target:
    """Where a client goes and as whom."""

    host: str
    port: int
    user: str
    database: str
    password: str = field(repr=False)


class Tally:
    """What the clients of a tenant have seen."""

    def __init__(self) -> None:
        self.queries = 0  # answered, and rightly
        self.errors = 0
        self.examples: list[str] = []  # the first errors' texts
        self.latencies: dict[int, int] = {}  # bucket -> count

    def answered(self, seconds: float) -> None:
        """Counts a right answer."""
        self.queries += 1
        bucket = int(math.log(max(seconds * 1e6, 1.0)) / _BUCKET_RATIO)
        self.latencies[bucket] = self.latencies.get(bucket, 0) + 1

    def failed(self, text: str) -> None:
        """Counts an error."""
        self.errors += 1
        if len(self.examples) < _EXAMPLES_KEPT and text not in self.examples:
            self.examples.append(text)

    def quantile(self, q: float) -> float:
        """The q-quantile (0..1) of the latencies in seconds; 0.0 when there is none."""
        rank = q * self.queries
        below = 0
        for bucket in sorted(self.latencies):
            below += self.latencies[bucket]
            if below >= rank:
                return math.exp((bucket + 0.5) * _BUCKET_RATIO) / 1e6
        return 0.0

    def add(self, other: "Tally") -> None:
        """Adds another one's counts."""
        self.queries += other.queries
        self.errors += other.errors
        self.examples += other.examples
        for bucket, count in other.latencies.items():
            self.latencies[bucket] = self.latencies.get(bucket, 0) + count


class DemoClient(asyncio.Protocol):
    """A connection. `ready` is done after the login, or has its error (ConnectionError)."""

    def __init__(self, name: str, target: Target, tally: Tally, think_s: float, salted: SaltedPasswords) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._target = target
        self._tally = tally
        self._think_s = think_s
        self._scram = ScramExchange(target.password, salted)
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._count = 0
        self._expected = b""  # the body of the DataRow that must come; empty while nothing is asked
        self._has_row = False
        self._asked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self.ready: asyncio.Future[None] = self._loop.create_future()

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is owed."""
        return bool(self._expected)

    def start(self) -> None:
        """Begins to ask, after a random part of the time to think."""
        if not self._is_closing:
            self._timer = self._loop.call_later(random.random() * self._think_s, self._ask)

    def stop_asking(self) -> None:
        """No further query; an answer that is owed may still come."""
        if self._timer is not None:
            self._timer.cancel()
        self._think_s = math.inf

    def close(self) -> None:
        """Says good-bye. An answer that is still owed is an error."""
        if self._expected:
            self.fail("no answer")
        elif not self._is_closing:
            self._is_closing = True
            self._write(_TERMINATE)
            if self._transport is not None:
                self._transport.close()

    def fail(self, text: str) -> None:
        """Counts an error and ends the client; does nothing when it has ended."""
        if self._is_closing:
            return
        self._is_closing = True
        self._expected = b""
        self.stop_asking()
        self._tally.failed(text)
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(text))
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        names = {"user": self._target.user, "database": self._target.database, "application_name": "pgweir-demo"}
        body = _PROTOCOL_3_0 + b"".join(_text(k) + _text(v) for k, v in names.items()) + b"\0"
        self._write((len(body) + 4).to_bytes(4, "big") + body)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at = 0
        while len(data) - at >= 5:
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if len(data) < end:
                break
            try:
                self._message(data[at : at + 1], data[at + 5 : end])
            except ValueError as error:
                self.fail(str(error))
            at = end
        self._buffer = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_closing:
            self.fail("the connection was closed")

    # --- inside

    def _message(self, tag: bytes, body: bytes) -> None:
        if self._is_closing:
            return
        if tag == b"D":
            self._has_row = body == self._expected
            if not self._has_row:
                self.fail("an answer that is not this client's")
        elif tag == b"Z":
            self._on_ready()
        elif tag == b"R":
            self._authenticate(int.from_bytes(body[:4], "big"), body[4:])
        elif tag == b"E":
            fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
            self.fail(f"{fields.get(b'C', '?????')}: {fields.get(b'M', '')}")

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _authenticate(self, kind: int, data: bytes) -> None:
        if kind == 10:
            first = self._scram.first()
            self._write(_framed(b"p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first))
        elif kind == 11:
            self._write(_framed(b"p", self._scram.final(data)))
        elif kind == 12:
            self._scram.verify(data)
        elif kind != 0:
            raise ValueError(f"authentication request {kind} is not expected")

    def _on_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
            return
        if not self._has_row:
            self.fail("an answer without a row")
            return
        self._tally.answered(perf_counter() - self._asked_at)
        self._expected = b""
        if self._think_s == math.inf:
            return
        # Uniform around the mean, so that the clients do not fall into step.
        self._timer = self._loop.call_later((0.5 + random.random()) * self._think_s, self._ask)

    def _ask(self) -> None:
        if self._is_closing:
            return
        self._count += 1
        tag = f"{self._name}-{self._count}".encode()
        self._expected = b"\0\1" + len(tag).to_bytes(4, "big") + tag
        self._has_row = False
        self._asked_at = perf_counter()
        self._write(_framed(b"Q", b"select '" + tag + b"'\0"))


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _framed(tag: bytes, body: bytes) -> bytes:
    return tag + (len(body) + 4).to_bytes(4, "big") + body
