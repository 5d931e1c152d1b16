"""What the HTTP side must know of the process, as protocols: it is a sibling of `net` and below `server`.

`Directory`, `Instance` and `Pool` fit as they are; `server` fills in `ProcessView`. Everything is read, nothing is
changed, and each attribute is read anew for every answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from pgweir_pooler.pool.instance_ledger import InstanceLedger
    from pgweir_pooler.pool.keys import PoolKey
    from pgweir_pooler.pool.ledger import PoolLedger
    from pgweir_pooler.telemetry import PoolCounters, ProcessCounters

State: TypeAlias = Literal["Starting", "Serving", "Draining"]


class PoolView(Protocol):
    """One pool: whose it is, what it has done, and how many of its servers are where."""

    @property
    def key(self) -> PoolKey: ...
    @property
    def counters(self) -> PoolCounters: ...
    @property
    def ledger(self) -> PoolLedger:
        """Read for its limits, and why logins fail."""
        ...

    @property
    def opening(self) -> int: ...
    @property
    def idle(self) -> int: ...
    @property
    def active(self) -> int:
        """Servers that are lent."""
        ...

    @property
    def closing(self) -> int: ...
    @property
    def listening(self) -> int: ...
    @property
    def waiting(self) -> int:
        """Clients in the queue."""
        ...

    def oldest_wait_s(self) -> float:
        """0.0 when nobody waits."""
        ...


class InstanceView(Protocol):
    """One database instance and its budget."""

    @property
    def ledger(self) -> InstanceLedger: ...


class DirectoryView(Protocol):
    """All tenants, pools and instances."""

    @property
    def tenants(self) -> Mapping[str, object]:
        """By tenant id; only whether an id is there is of interest."""
        ...

    @property
    def instances(self) -> Mapping[str, InstanceView]:
        """By `host:port`."""
        ...

    @property
    def departed(self) -> Iterable[PoolView]:
        """Pools that drain."""
        ...

    def pools(self) -> Iterable[PoolView]:
        """Pools that serve."""
        ...


class ClientTlsView(Protocol):
    """The certificate that clients see."""

    @property
    def reloads(self) -> int: ...
    @property
    def reload_failures(self) -> int: ...
    @property
    def not_after(self) -> datetime | None:
        """None when there is no TLS."""
        ...


class ProcessView(Protocol):
    """The whole process."""

    @property
    def state(self) -> State: ...
    @property
    def version(self) -> str: ...
    @property
    def boot_id(self) -> str: ...
    @property
    def member(self) -> str: ...
    @property
    def started_at(self) -> datetime:
        """With its time zone."""
        ...

    @property
    def revisions(self) -> Mapping[str, str]:
        """File name to the revision that is applied."""
        ...

    @property
    def problems(self) -> Sequence[tuple[str, str]]:
        """Where (a file, or a file and a tenant) and what is wrong there; without secrets."""
        ...

    @property
    def warnings(self) -> Sequence[tuple[str, str]]:
        """Likewise, of what works and should not stay so."""
        ...

    @property
    def logins_in_progress(self) -> int: ...
    @property
    def logins_blocked(self) -> int:
        """Pairs of address and tenant that are refused for failed logins."""
        ...

    @property
    def client_tls(self) -> ClientTlsView: ...
    @property
    def counters(self) -> ProcessCounters: ...
    @property
    def directory(self) -> DirectoryView: ...
