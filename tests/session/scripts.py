"""Random conversations of a client: simple, extended, pipelined and COPY messages, right ones and wrong ones.

A script is a list of whole messages. It knows nothing of the answers: errors, skipping and copies that never start are
meant, for the reader of such a stream has to follow whatever PostgreSQL makes of it.
"""

import struct
from random import Random

from harness import messages

SCHEMA = """
create table if not exists plain (n int);
create table if not exists picky (n int check (n < 100));
create table if not exists late (n int unique deferrable initially deferred);
truncate plain; truncate picky; truncate late; insert into late values (1);
"""

_SIMPLE = [
    "",
    ";",
    "select 1",
    "select 1; select 2; insert into plain values (1)",
    "select repeat('x', 3000) from generate_series(1, 5)",
    "select 1/0",
    "select 1; select 1/0; select 2",
    "selekt",
    "begin",
    "begin",
    "commit",
    "rollback",
    "insert into late values (1)",
    "begin; insert into late values (1)",
    "set work_mem = '5MB'",
    "set application_name = 'scripted'",
    "do $$ begin raise notice 'noted'; end $$",
    "copy (select generate_series(1, 30)) to stdout",
    "copy (select 1) to stdout; copy (select 2) to stdout; select 3",
    "copy (select 1/(n - 3) from generate_series(1, 9) n) to stdout",
]
_EXTENDED = [
    "",
    "select 1",
    "select generate_series(1, 5)",
    "select 1/0",
    "selekt",
    "insert into plain values (1)",
    "insert into late values (1)",
    "begin",
    "commit",
    "copy (select generate_series(1, 30)) to stdout",
]
_COPIES_IN = [
    "copy plain from stdin",
    "copy plain from stdin",
    "copy picky from stdin",
    "copy nowhere from stdin",
]
_SIMPLE_COPIES_IN = [
    *_COPIES_IN,
    "copy plain from stdin; copy picky from stdin; select 1",
    "select 1; copy picky from stdin; copy plain from stdin",
    "begin; copy picky from stdin",
]


def script(random: Random, length: int) -> list[bytes]:
    """`length` passages of one to a dozen messages each."""
    passages = [_simple, _simple, _extended, _extended, _extended, _loose, _copy_in, _copy_in, _call]
    return [message for _ in range(length) for message in random.choice(passages)(random)]


# However a script has ended: the copy, the skipping and the transaction are over behind this.
RECOVERY = [messages.copy_fail("over"), messages.SYNC, messages.query("rollback")]


def _simple(random: Random) -> list[bytes]:
    return [messages.query(random.choice(_SIMPLE))]


def _extended(random: Random) -> list[bytes]:
    parts = [messages.parse(random.choice(_EXTENDED))]
    if random.random() < 0.3:
        parts.append(messages.describe_statement())
    if random.random() < 0.2:
        parts.append(messages.FLUSH)
    parts.append(messages.bind())
    if random.random() < 0.5:
        parts.append(messages.describe_portal())
    parts.append(messages.execute(max_rows=random.choice([0, 0, 1, 2])))
    if random.random() < 0.2:
        parts.append(messages.execute())
    return parts + random.choice([[messages.SYNC], [messages.SYNC], [messages.FLUSH], []])


def _loose(random: Random) -> list[bytes]:
    """One message that the client may send at any time, whether it makes sense or not."""
    return [
        random.choice(
            [
                messages.SYNC,
                messages.SYNC,
                messages.FLUSH,
                messages.COPY_DONE,
                messages.copy_fail("stray"),
                messages.copy_data(b"1\n"),
                messages.execute(),
                messages.execute("no such portal"),
                messages.bind(statement="no such statement"),
                messages.describe_statement(),
                messages.describe_portal(),
                messages.close_statement(),
                messages.close_portal(),
                messages.close_portal("never was"),
            ]
        )
    ]


def _copy_in(random: Random) -> list[bytes]:
    if random.random() < 0.5:
        # The Sync: as in `_call`.
        parts = [messages.SYNC, messages.query(random.choice(_SIMPLE_COPIES_IN))]
    else:
        parts = [messages.parse(random.choice(_COPIES_IN)), messages.bind(), messages.execute()]
        parts += [messages.SYNC] * random.choice([0, 0, 1, 1, 2])
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        for _ in range(random.randrange(4)):
            line = random.choice([b"1\n", b"2\n", b"3\n", b"200\n", b"no number\n"])
            parts.append(random.choice([messages.copy_data(line)] * 3 + [messages.FLUSH, messages.SYNC]))
        parts.append(random.choice([messages.COPY_DONE, messages.COPY_DONE, messages.copy_fail("the client gave up")]))
    # A Sync before the end of an extended copy may count or not; another one behind the end makes it clear again.
    is_unclear = parts[0][:1] == b"P" and messages.SYNC in parts
    return parts + [messages.SYNC] * random.choice([1 if is_unclear else 0, 1, 1, 2])


def _call(random: Random) -> list[bytes]:
    """FunctionCall of int4pl(1, x), or of int4div(1, 0), which fails."""
    oid = random.choice([177, 154])
    arguments = struct.pack(">IHHHiIiI", oid, 1, 1, 2, 4, 1, 4, 0)
    # A Sync before it, for PostgreSQL 15 and 18 are left with a broken transaction state (XX000) when it comes between
    # an Execute and its Sync.
    return [messages.SYNC, messages.message(b"F", arguments + struct.pack(">H", 1))]
