"""Plays scripts both ways and tells where the answers part."""

import asyncio
import re
from collections.abc import Sequence
from difflib import unified_diff
from itertools import zip_longest

from differential.scene import prepare
from differential.script import Script
from differential.transcript import play
from harness.address import Address
from harness.databases import Database

_CONTEXT = 12  # steps shown before the one whose answers part
_IN_FAILED = re.compile(r"'C': '(25P02|08P01)'.*'R': 'exec_(bind|parse)_message'")
_IN_COPY = re.compile(r"unexpected message type 0x[0-9A-F]{2} during COPY")
_SHOWN = 20  # lines of the parting answers


async def differences(database: Database, pooled: Address, scripts: Sequence[Script]) -> list[str]:
    """Plays all scripts directly, one after the other, then all at once through the pooler; one text per client whose
    answers part."""
    clients = max(script.number for script in scripts) + 1
    await asyncio.to_thread(prepare, database, clients)
    direct = [await play(database.address, script) for script in scripts]
    await asyncio.to_thread(prepare, database, clients)
    through = await asyncio.gather(*(play(pooled, script) for script in scripts))
    found = [difference(script, *both) for script, *both in zip(scripts, direct, through, strict=True)]
    return [text for text in found if text]


def difference(script: Script, direct: list[list[str]], pooled: list[list[str]]) -> str:
    """Where the answers to a script part; empty when they do not."""
    said = ["the login", *(step.said for step in script.steps)]
    for i, (one, other) in enumerate(zip_longest(direct, pooled)):
        if one != other and [_excused(line) for line in one or ()] != [_excused(line) for line in other or ()]:
            before = [f"      {text}" for text in said[max(0, i - _CONTEXT) : i]]
            lines = [f"client {script.number}, startup {dict(script.startup)}", *before, f"  at  {said[i]}"]
            return "\n".join(lines + _parting(one, other))
    return ""


def _excused(line: str) -> str:
    """In a failed transaction a Bind is refused either way; through the pooler perhaps before its parameters are
    counted, for the statement cannot be prepared on this server. A message in the middle of a COPY ends the session;
    what PostgreSQL reads first may be what prepares the statement."""
    if line.startswith(("E ", "N ")) and _IN_FAILED.search(line):
        return "E refused"
    return _IN_COPY.sub("unexpected message during COPY", line)


def _parting(direct: list[str] | None, pooled: list[str] | None) -> list[str]:
    if direct is None or pooled is None:
        return [
            f"    direct {'ended' if direct is None else 'goes on'}, pooled {'ended' if pooled is None else 'goes on'}"
        ]
    lines = unified_diff(direct, pooled, "direct", "pooled", lineterm="", n=1)
    return [f"    {line}" for line in lines][2 : 2 + _SHOWN]
