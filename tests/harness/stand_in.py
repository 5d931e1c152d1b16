"""A process in the place of a pooler, for tests of the harness itself."""

import textwrap

from harness.pooler import Pooler

# Stands in for the pooler: says it is ready, and ends as the test wants.
_STAND_IN = """
    import signal, socket, sys
    listener = socket.socket(fileno=int(sys.argv[sys.argv.index("--http-fd") + 1]))
    listener.listen()
    {on_start}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
    while True:
        with listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
"""


def stand_in(on_start: str = "pass", code: int = 0) -> Pooler:
    """Says that it is ready, runs some Python at its start, and ends with that exit code."""
    script = textwrap.dedent(_STAND_IN).format(on_start=on_start, code=code)
    return Pooler({}, program=("-W", "ignore", "-c", script))
