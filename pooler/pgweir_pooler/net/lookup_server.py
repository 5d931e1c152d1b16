"""One connection to a tenant's PostgreSQL on which users are looked up: asyncpg, on a connection that has logged in.

The login is that of every server (TLS, where a tenant may point, bounds on what a server may send), so asyncpg gets
the transport afterwards: it is greeted as a server would greet it, and what it says at its start goes nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pgweir_pooler.errors import UserLookupFailed
from pgweir_pooler.net.flow import PausableProtocol
from pgweir_pooler.wire.messages import (
    TERMINATE,
    authentication_ok,
    backend_key_data,
    parameter_status,
    ready_for_query,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from pgweir_pooler.pool.keys import CloseReason
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Slot
    from pgweir_pooler.session.steps import LoggedIn

CLOSE_TIMEOUT_S: Final = 15.0  # how long PostgreSQL may take to close its side
ANSWER_MAX_BYTES: Final = 65_536  # a row and its description take some hundred


class LookupServer(PausableProtocol):
    """See the module. In its pool's books it is lent while it is used."""

    def __init__(self, pool: Pool, slot: Slot, loop: asyncio.AbstractEventLoop, done: LoggedIn) -> None:
        super().__init__()
        self.pool = pool
        self.slot = slot
        self._loop = loop
        self._done = done
        self._inner: Any = None  # asyncpg's protocol, as the next from the first lookup to the end
        self._asyncpg: Any = None
        self._received_bytes = 0
        self._is_closing = False
        self._is_lost = False

    async def look_up(self, query: str, user: str, timeout_s: float) -> Sequence[Sequence[object]]:
        """The rows of the query. Raises UserLookupFailed, and then the connection may be at its end.

        It must not be cancelled: asyncpg would open a connection to cancel the query.
        """
        import asyncpg  # of all processes those need it that have such a tenant

        late = self._loop.call_later(timeout_s, self.transport.abort)
        try:
            if self._asyncpg is None:
                self._asyncpg = await self._hand_over(asyncpg.connect)
            self._received_bytes = 0
            rows: Sequence[Sequence[object]] = await self._asyncpg.fetch(query, user)
            return rows
        except asyncpg.UntranslatableCharacterError:
            return ()  # a name that the database's encoding cannot write is no role's
        except asyncpg.PostgresError as error:
            # The server's own words may hold anything that a query reads.
            raise UserLookupFailed(f"{type(error).__name__} ({error.sqlstate})") from None
        except (asyncpg.InterfaceError, OSError, ValueError) as error:
            raise UserLookupFailed(type(error).__name__) from None
        finally:
            late.cancel()

    @property
    def is_lost(self) -> bool:
        """Whether the connection is at its end."""
        return self._is_lost or self._is_closing

    async def _hand_over(self, connect: Callable[..., Any]) -> Any:
        return await connect(
            loop=_HandedOver(self._loop, self._greet),
            host="handed-over",  # all that would be read from the environment is given, and none of it is used
            port=1,
            user="handed-over",
            password="",
            database="handed-over",
            ssl=False,
            timeout=None,
            target_session_attrs="any",
            statement_cache_size=0,
        )

    def _greet(self, factory: Callable[[], Any]) -> tuple[Any, Any]:
        self._inner = inner = factory()
        transport = _Mute(self.transport)
        inner.connection_made(transport)
        transport.is_muted = False
        done = self._done
        parameters = [parameter_status(name, value) for name, value in done.parameters.items()]
        inner.data_received(
            b"".join((authentication_ok(), *parameters, backend_key_data(0, bytes(4)), ready_for_query()))
        )
        return transport, inner

    # --- pool.slot.Connection

    def close(self, reason: CloseReason) -> None:
        """Says goodbye and waits for PostgreSQL to close its side; the slot is free only then."""
        if self._is_closing:
            return
        self._is_closing = True
        self.transport.write(TERMINATE)
        self._loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._is_closing or self._inner is None:  # notices, or words after the goodbye
            return
        self._received_bytes += len(data)
        if self._received_bytes > ANSWER_MAX_BYTES:
            self.transport.abort()
            return
        self._inner.data_received(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._inner is not None:
            self._inner.connection_lost(exc)
        self.pool.lost(self)


class _Mute:
    """The transport as asyncpg has it: what it says before it is greeted is not sent."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_muted = True

    def write(self, data: bytes) -> None:
        if not self.is_muted:
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _HandedOver:
    """The event loop as asyncpg has it: connecting gives what is there already."""

    def __init__(self, loop: asyncio.AbstractEventLoop, greet: Callable[[Callable[[], Any]], tuple[Any, Any]]) -> None:
        self._loop = loop
        self._greet = greet

    async def create_connection(self, factory: Callable[[], Any], *_: object, **__: object) -> tuple[Any, Any]:
        """The one connection."""
        return self._greet(factory)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)
