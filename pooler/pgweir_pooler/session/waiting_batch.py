"""What a cancel ends of the bytes that a client sent while it waits for a server.

PostgreSQL would answer the first thing that runs with an error and one ReadyForQuery: to a Query or a FunctionCall, or
to extended-protocol messages, which it then skips up to and with the Sync. So the first of these can be answered by us,
if it has arrived whole, and nobody can tell the difference; what follows it is a query of its own.
"""

from pgweir_pooler.wire.framing import (
    FRONTEND_LIMITS,
    FUNCTION_CALL,
    HEADER_SIZE,
    QUERY,
    SYNC,
    TERMINATE,
    read_header,
)


def first_batch_size(data: bytes) -> int:
    """How many bytes at the beginning of `data` one error and one ReadyForQuery answer; 0 when that is not sure.

    `data` begins at a message. Not sure: a message is not whole, or broken; the client says goodbye; or there is only a
    Sync, which runs nothing.
    """
    pos, end = 0, len(data)
    while end - pos >= HEADER_SIZE:
        tag, length = read_header(data, pos)
        after: int = pos + 1 + length
        if not 4 <= length <= FRONTEND_LIMITS.get(tag, 0) or after > end or tag == TERMINATE:
            return 0
        if tag == SYNC:
            return after if pos else 0
        if pos == 0 and tag in (QUERY, FUNCTION_CALL):
            return after
        pos = after  # skipped, a Query among them
    return 0
