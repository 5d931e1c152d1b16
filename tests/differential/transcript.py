"""What a client reads while it plays a script, as text that compares.

As little as can be is left out:
- identity of a table in RowDescription: the tables are made anew for each run (whether there is one stays);
- file and line of an error: places in PostgreSQL's source, which an error made by the pooler has not;
- when a ParameterStatus comes: the values that the client knows at each ReadyForQuery are compared, for a RESET on
  a shared server goes to the server's value first, then to the client's;
- the server's process id and cancel key, which no script shows.
"""

import struct

from differential.script import Script, Step
from harness.address import Address
from harness.messages import Message, error_fields, row_values
from harness.raw_client import RawClient, ServerClosedError, ServerRefusedError

TIMEOUT_S = 20.0
GONE = "connection closed"
_SOURCE_PLACE = "FL"


async def play(address: Address, script: Script) -> list[list[str]]:
    """Runs the script; the answers step by step, that of the login first. It ends with the connection."""
    try:
        client = await RawClient.connect(address, script.startup, TIMEOUT_S)
    except ServerRefusedError as error:
        return [[_fields("E", error.fields)]]
    reader = _Reader(client)
    answers = [reader.changes()]
    try:
        for step in script.steps:
            answer: list[str] = []
            answers.append(answer)
            client.send(step.data)
            await reader.read(step, answer)
    except ServerClosedError as end:
        answers[-1].append(GONE + (f" in the middle of {end.rest!r}" if end.rest else ""))
    except TimeoutError:
        answers[-1].append("no answer")
    finally:
        client.close()
    return answers


class _Reader:
    """Reads one client's messages as text."""

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self._known: dict[str, str] = {}  # parameters that have been shown

    async def read(self, step: Step, answer: list[str]) -> None:
        """The answer to a step."""
        readies = step.readies
        while True:
            message = await self._client.receive()
            if message.tag == b"S":
                continue
            answer.append(shown(message))
            if message.tag == b"Z":
                answer += self.changes()
                readies -= 1
                if not readies and not step.until:
                    return
            elif message.tag in step.until:
                return

    def changes(self) -> list[str]:
        """Parameters that have other values than when they were last shown."""
        parameters = self._client.parameters
        changed = [f"S {name}={value}" for name, value in sorted(parameters.items()) if self._known.get(name) != value]
        self._known = dict(parameters)
        return changed


def shown(message: Message) -> str:
    """One message as text."""
    tag, body = message
    letter = tag.decode()
    if tag == b"T":
        return f"T {_columns(body)}"
    if tag == b"D":
        return f"D {row_values(body)}"
    if tag in (b"E", b"N"):
        return _fields(letter, error_fields(body))
    return f"{letter} {body!r}"


def _fields(letter: str, fields: dict[str, str]) -> str:
    return f"{letter} { ({name: value for name, value in fields.items() if name not in _SOURCE_PLACE}) }"


def _columns(body: bytes) -> list[tuple[str, bool, int, int, int, int, int]]:
    columns = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        stop = body.index(b"\0", at)
        table, *rest = struct.unpack_from(">IhIhih", body, stop + 1)
        columns.append((body[at:stop].decode(errors="replace"), table != 0, *rest))
        at = stop + 19
    return columns
