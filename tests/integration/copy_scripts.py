"""What clients do with COPY and function calls: scripts of (bytes to send, type of the message to wait for)."""

import struct

from harness import messages
from harness.messages import (
    COPY_DONE,
    FLUSH,
    SYNC,
    bind,
    copy_data,
    copy_fail,
    describe_portal,
    execute,
    extended,
    parse,
    query,
)

Script = list[tuple[bytes, bytes]]

IN = "copy seen from stdin"
OUT = "copy (select n from generate_series(1, 2000) n) to stdout"
OUT_FAILS = "copy (select 10 / (1500 - n) from generate_series(1, 2000) n) to stdout"
GOOD = b"".join(copy_data(b"%d\n" % n) for n in range(5))
BAD = copy_data(b"6\n") + copy_data(b"no number\n") + copy_data(b"7\n") * 50
LATE_BAD = copy_data(b"1\n" * 40_000) + copy_data(b"no number\n") + copy_data(b"2\n" * 40_000)
FAIL = copy_fail("the client gives up")
COUNT = query("select count(*), sum(n) from seen")


def start(sql: str) -> bytes:
    return parse(sql) + bind() + execute()


def call(oid: int, *arguments: bytes, formats: int = 0) -> bytes:
    """A FunctionCall with text arguments and result."""
    body = struct.pack(">IHHH", oid, 1, formats, len(arguments))
    body += b"".join(len(each).to_bytes(4, "big") + each for each in arguments)
    return messages.message(b"F", body + b"\0\0")


INT4PL, INT4DIV, NO_FUNCTION = 177, 154, 1

COPY_IN: dict[str, Script] = {
    "good": [(query(IN), b"G"), (GOOD + COPY_DONE, b"Z"), (COUNT, b"Z")],
    "empty": [(query(IN), b"G"), (COPY_DONE, b"Z"), (COUNT, b"Z")],
    "without waiting": [(query(IN) + GOOD + COPY_DONE + COUNT, b"Z")],
    "given up at once": [(query(IN), b"G"), (FAIL, b"Z"), (COUNT, b"Z")],
    "given up later": [(query(IN), b"G"), (GOOD + FAIL, b"Z"), (COUNT, b"Z")],
    "given up twice": [(query(IN) + GOOD + FAIL + FAIL + COUNT, b"Z")],
    "done twice": [(query(IN) + GOOD + COPY_DONE + COPY_DONE + GOOD + COUNT, b"Z")],
    "bad data": [(query(IN), b"G"), (BAD, b"E"), (GOOD + COPY_DONE, b""), (COUNT, b"Z")],
    "bad data without waiting": [(query(IN) + BAD + COPY_DONE + COUNT, b"Z")],
    "bad data, then given up": [(query(IN) + BAD + FAIL + COUNT, b"Z")],
    "bad data late": [(query(IN), b"G"), (LATE_BAD + COPY_DONE, b"Z"), (COUNT, b"Z")],
    "no table": [(query("copy nowhere from stdin") + GOOD + COPY_DONE + COUNT, b"Z")],
    "no table, then given up": [(query("copy nowhere from stdin") + GOOD + FAIL + COUNT, b"Z")],
    "ended by its marker": [(query(IN), b"G"), (GOOD + copy_data(b"\\.\n") + GOOD + COPY_DONE, b"Z"), (COUNT, b"Z")],
    "binary that is text": [(query("copy seen from stdin binary") + GOOD + COPY_DONE + COUNT, b"Z")],
    "bad data and no end": [(query(IN) + BAD + COUNT + SYNC + COUNT, b"Z")],
    "bad data and no end, behind a Sync": [(query(IN) + SYNC + BAD + COUNT + SYNC + COUNT, b"Z")],
    "bad data and no end, then more": [(query(IN) + BAD + start("select 1") + SYNC + query(IN) + FAIL + COUNT, b"Z")],
    "violates a constraint": [(query(IN) + copy_data(b"-1\n") + COPY_DONE + COUNT, b"Z")],
    "Sync and Flush inside": [(query(IN) + GOOD + SYNC + FLUSH + GOOD + COPY_DONE + COUNT, b"Z")],
    "a query inside": [(query(IN) + GOOD + COUNT, b"E"), (COPY_DONE + COUNT, b"Z")],
    "a query inside, and data behind it": [(query(IN) + GOOD + COUNT + GOOD + COPY_DONE, b"E"), (COUNT, b"Z")],
    "a parse inside": [(query(IN) + GOOD + parse("select 1") + COPY_DONE, b"E"), (SYNC + COUNT, b"Z")],
    "in a transaction": [
        (query("begin"), b"Z"),
        (query(IN), b"G"),
        (GOOD + COPY_DONE, b"Z"),
        (query("insert into seen values (100)") + COUNT + query("commit"), b"Z"),
        (COUNT, b"Z"),
    ],
    "in a transaction, rolled back": [
        (query("begin") + query(IN) + GOOD + COPY_DONE + COUNT + query("rollback") + COUNT, b"Z"),
    ],
    "in a transaction, given up": [
        (query("begin"), b"Z"),
        (query(IN), b"G"),
        (GOOD + FAIL, b"Z"),
        (COUNT, b"Z"),
        (query("commit"), b"Z"),
        (COUNT, b"Z"),
    ],
    "in a transaction, to a savepoint": [
        (query("begin; insert into seen values (1); savepoint s") + query(IN), b"G"),
        (BAD + COPY_DONE, b"Z"),
        (query("rollback to s; commit") + COUNT, b"Z"),
    ],
    "several in one query": [
        (query(f"{IN}; select 'between'; {IN}; {COUNT[5:-1].decode()}"), b"G"),
        (GOOD + COPY_DONE, b"G"),
        (GOOD + COPY_DONE, b"Z"),
    ],
    "several in one query without waiting": [(query(f"{IN}; {IN}") + (GOOD + COPY_DONE) * 2 + COUNT, b"Z")],
    "several, the first fails": [(query(f"{IN}; {IN}") + GOOD + FAIL + GOOD + COPY_DONE + COUNT, b"Z")],
    "several, the second fails": [(query(f"{IN}; {IN}") + GOOD + COPY_DONE + BAD + COPY_DONE + COUNT, b"Z")],
    "begin, copy and commit in one query": [
        (query(f"begin; {IN}; commit") + GOOD + COPY_DONE + COUNT, b"Z"),
    ],
    "out and in": [(query(f"{OUT}; {IN}; {OUT}"), b"G"), (GOOD + COPY_DONE, b"Z"), (COUNT, b"Z")],
}

EXTENDED: dict[str, Script] = {
    "good": [(start(IN) + FLUSH, b"G"), (GOOD + COPY_DONE + SYNC, b"Z"), (COUNT, b"Z")],
    "as libpq does": [(start(IN) + SYNC, b"G"), (GOOD + COPY_DONE + SYNC, b"Z"), (COUNT, b"Z")],
    "as libpq does without waiting": [(start(IN) + SYNC + GOOD + COPY_DONE + SYNC + COUNT, b"Z")],
    "a Sync in the middle": [(start(IN) + SYNC + GOOD + SYNC + SYNC + GOOD + COPY_DONE + SYNC + COUNT, b"Z")],
    "bad data": [(start(IN) + FLUSH, b"G"), (BAD + COPY_DONE + SYNC, b"Z"), (COUNT, b"Z")],
    "bad data as libpq does": [(start(IN) + SYNC, b"G"), (BAD + COPY_DONE + SYNC, b"Z"), (COUNT, b"Z")],
    "bad data, a Sync before it and after": [(start(IN) + SYNC + BAD + SYNC + COPY_DONE + SYNC + COUNT, b"Z")],
    "bad data late": [(start(IN) + SYNC, b"G"), (LATE_BAD + COPY_DONE + SYNC, b"Z"), (COUNT, b"Z")],
    "given up": [(start(IN) + FLUSH, b"G"), (GOOD + FAIL + SYNC, b"Z"), (COUNT, b"Z")],
    "given up as libpq does": [(start(IN) + SYNC, b"G"), (GOOD + FAIL + SYNC, b"Z"), (COUNT, b"Z")],
    "given up, a Sync before it": [(start(IN) + GOOD + SYNC + FAIL + SYNC + COUNT, b"Z")],
    "bad data and no end": [(start(IN) + BAD + start("select 1") + SYNC + COUNT, b"Z")],
    "no table": [(start("copy nowhere from stdin") + SYNC + GOOD + COPY_DONE + SYNC + COUNT, b"Z")],
    "described": [(parse(IN) + bind() + describe_portal() + execute() + FLUSH, b"G"), (GOOD + COPY_DONE + SYNC, b"Z")],
    "more behind it": [
        (start(IN) + FLUSH, b"G"),
        (GOOD + COPY_DONE + start("select 'behind'") + SYNC + COUNT, b"Z"),
    ],
    "in a transaction": [
        (start("begin") + SYNC, b"Z"),
        (start(IN) + SYNC, b"G"),
        (GOOD + COPY_DONE + SYNC, b"Z"),
        (start("commit") + SYNC + COUNT, b"Z"),
    ],
    "in a transaction, given up": [
        (start("begin") + SYNC + start(IN) + FLUSH, b"G"),
        (GOOD + FAIL + SYNC, b"Z"),
        (extended("select 1") + start("rollback") + SYNC + COUNT, b"Z"),
    ],
    "a query instead of data": [(start(IN) + FLUSH, b"G"), (COUNT, b"E"), (SYNC + COUNT, b"Z")],
}

COPY_OUT: dict[str, Script] = {
    "good": [(query(OUT), b"Z")],
    "several": [(query(f"{OUT}; select 1; {OUT}") + query(OUT), b"Z")],
    "binary": [(query(OUT.replace("to stdout", "to stdout binary")), b"Z")],
    "fails in the middle": [(query(OUT_FAILS) + COUNT, b"Z")],
    "fails in a transaction": [(query("begin") + query(OUT_FAILS) + COUNT + query("rollback") + COUNT, b"Z")],
    "several, one fails": [(query(f"{OUT}; {OUT_FAILS}; {OUT}") + COUNT, b"Z")],
    "copy data sent during it": [(query(OUT) + GOOD + COPY_DONE + FAIL + COUNT, b"Z")],
    "extended": [(start(OUT) + SYNC + COUNT, b"Z")],
    "extended without a Sync": [(start(OUT) + FLUSH, b"C"), (SYNC + COUNT, b"Z")],
    "extended, fails in the middle": [(start(OUT_FAILS) + start(OUT) + SYNC + COUNT, b"Z")],
    "extended in a transaction": [(query("begin") + start(OUT) + SYNC + query("commit") + COUNT, b"Z")],
}

FUNCTION_CALLS: dict[str, Script] = {
    "good": [(call(INT4PL, b"3", b"4"), b"Z"), (COUNT, b"Z")],
    "several without waiting": [(call(INT4PL, b"1", b"2") * 3 + COUNT, b"Z")],
    "fails": [(call(INT4DIV, b"1", b"0"), b"Z"), (COUNT, b"Z")],
    "no such function": [(call(NO_FUNCTION, b"1"), b"Z"), (COUNT, b"Z")],
    "too few arguments": [(call(INT4PL, b"1"), b"Z"), (COUNT, b"Z")],
    "bad argument": [(call(INT4PL, b"1", b"x"), b"Z"), (COUNT, b"Z")],
    "bad format": [(call(INT4PL, b"1", b"2", formats=7), b"Z"), (COUNT, b"Z")],
    "too short": [(messages.message(b"F", b"\0\0"), b"Z"), (COUNT, b"Z")],
    "in a transaction": [
        (query("begin; insert into seen values (1)"), b"Z"),
        (call(INT4PL, b"3", b"4"), b"Z"),
        (COUNT + query("commit"), b"Z"),
    ],
    "fails in a transaction": [
        (query("begin; insert into seen values (1)") + call(INT4DIV, b"1", b"0"), b"Z"),
        (call(INT4PL, b"1", b"1") + query("commit") + COUNT, b"Z"),
    ],
    "behind an error, before the Sync": [
        (parse("selekt") + call(INT4PL, b"1", b"1") + SYNC + call(INT4PL, b"3", b"4"), b"Z"),
    ],
    "during a copy": [(query(IN) + GOOD + call(INT4PL, b"1", b"1"), b"E"), (COPY_DONE + COUNT, b"Z")],
}

SCRIPTS: dict[str, dict[str, Script]] = {
    "copy in": COPY_IN,
    "copy in, extended": EXTENDED,
    "copy out": COPY_OUT,
    "function call": FUNCTION_CALLS,
}

# What a random script is made of.
ATOMS: list[bytes] = [
    query(IN),
    query(f"{IN}; select 1; {IN}"),
    start(IN),
    GOOD,
    BAD,
    COPY_DONE,
    FAIL,
    SYNC,
    FLUSH,
    call(INT4PL, b"1", b"2"),
    call(INT4DIV, b"1", b"0"),
    COUNT,
    query("begin"),
    query("commit"),
    query("rollback"),
    query(OUT),
    start(OUT),
    parse("selekt"),
    query("select 1/0"),
    start("select 5"),
    start("select 1/0"),
]
