"""What the console must know of clients, servers and the process, as protocols: it is a sibling of `net`.

`ClientSession`, `ServerConnection` and `PoolerProcess` fit as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping, Sequence

    from pgweir_contract.models import ClusterFile
    from pgweir_pooler.directory import Directory, TenantPool
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Connection
    from pgweir_pooler.session.backend_stream import BackendStream
    from pgweir_pooler.session.steps import Identity, Settings

ShutdownMode: TypeAlias = Literal["", "wait_for_servers", "wait_for_clients"]


class ClientView(Protocol):
    """A client that is logged in. Also a waiter of its pool."""

    @property
    def id(self) -> int: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def mode(self) -> int: ...
    @property
    def connected_at(self) -> float:
        """Monotonic time."""
        ...

    @property
    def held(self) -> TenantPool: ...
    @property
    def pool(self) -> Pool: ...
    @property
    def server(self) -> object | None:
        """The server connection that it holds."""
        ...

    @property
    def transport(self) -> asyncio.Transport: ...
    @property
    def is_waiting(self) -> bool: ...
    @property
    def last_request_at(self) -> float:
        """Monotonic time; 0.0 when it is not known."""
        ...

    def statement_names(self) -> Mapping[bytes, object]:
        """By the names that the client has prepared."""
        ...

    def granted(self, connection: Connection, now: float) -> None: ...
    def refused(self, error: PoolerError) -> None: ...
    def close(self, error: PoolerError) -> None:
        """Ends the session, whatever it does."""
        ...


class ServerView(Protocol):
    """A server connection that is logged in."""

    @property
    def process_id(self) -> int: ...
    @property
    def client(self) -> object | None: ...
    @property
    def cancels_under_way(self) -> int: ...
    @property
    def transport(self) -> asyncio.Transport: ...
    @property
    def stream(self) -> BackendStream: ...


class ProcessView(Protocol):
    """The whole process."""

    @property
    def version(self) -> str: ...
    @property
    def member(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def cluster(self) -> ClusterFile: ...
    @property
    def directory(self) -> Directory: ...
    @property
    def logins_in_progress(self) -> int: ...
    @property
    def mock_key(self) -> bytes: ...

    def client_sessions(self) -> Iterable[ClientView]:
        """Clients of tenants that are logged in, now."""
        ...

    async def reload(self) -> Sequence[tuple[str, str]]:
        """Reads the configuration; where something is wrong with it, and what."""
        ...

    def shut_down(self, mode: ShutdownMode) -> None:
        """Begins the end."""
        ...
