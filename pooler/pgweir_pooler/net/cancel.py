"""CancelRequests: the ones that clients send us, and the ones that we send to PostgreSQL.

A cancel names a session by its key. It goes to PostgreSQL only while that session holds a server that works for it, and
the server is not lent to anybody else before PostgreSQL has closed the cancel's connection: by then the signal has been
delivered, so it cannot hit the next client's query.
"""

import asyncio
from typing import TYPE_CHECKING

from pgweir_pooler.wire.messages import cancel_request

if TYPE_CHECKING:
    from pgweir_pooler.net.clients import Clients
    from pgweir_pooler.net.server_connection import ServerConnection

CANCEL_TIMEOUT_S = 10.0


class CancelSender:
    """Sends CancelRequests to PostgreSQL, each on a connection of its own."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()  # under way; each removes itself

    def cancel(self, server: "ServerConnection") -> None:
        """Starts a CancelRequest for what the server runs now."""
        server.cancels_under_way += 1  # now: the query may end before the task runs, and the server must not be lent
        task = asyncio.get_running_loop().create_task(self._send(server), name="cancel a query")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, server: "ServerConnection") -> None:
        host, port = server.address
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(cancel_request(server.process_id, server.secret_key))
                    await reader.read()  # PostgreSQL answers by closing
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            pass  # a cancel may always come to nothing; the query runs on
        finally:
            server.cancel_ended()


def cancel_by_key(clients: "Clients", process_id: int, secret: bytes) -> None:
    """Carries out a client's CancelRequest. Unknown keys are ignored, as PostgreSQL does."""
    if len(secret) != 4:
        return
    session = clients.sessions.get((process_id << 32) | int.from_bytes(secret, "big"))
    if session is None:
        if clients.console is not None:
            clients.console.cancel(process_id, secret)
        return
    server = session.server
    if server is not None and not server.is_lost and server.stream.pipeline.owed:
        server.canceller.cancel(server)
