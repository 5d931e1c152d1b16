"""The rows of SHOW CLIENTS and SHOW SERVERS. Pure: the scene comes in, rows go out.

`ptr` is where the object lies in memory, as in PgBouncer: it is there to be matched with another row's `link`.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Final

from pgweir_pooler.console.census import all_pools, database_of, lent_state, server_of
from pgweir_pooler.orders import DatabaseKey

if TYPE_CHECKING:
    import asyncio

    from pgweir_pooler.console.encoding import Row, Rows
    from pgweir_pooler.console.scene import Scene
    from pgweir_pooler.console.view import ClientView
    from pgweir_pooler.pool.pool import Pool
    from pgweir_pooler.pool.slot import Slot

MODE_NAMES: Final = ("transaction", "session", "statement")  # by ClientSession.mode


def client_rows(scene: Scene) -> Rows:
    """Clients of tenants, then admins."""
    for client in list(scene.process.client_sessions()):
        yield _client(scene, client)
    for admin in scene.admins:
        yield (
            *("C", admin.user, scene.console_database, "none", "active"),
            *_addresses(admin.transport),
            *(_time(scene, admin.connected_at), _time(scene, admin.last_request_at)),
            *(
                0,
                0,
                0,
                _ptr(admin),
                "",
                0,
                _tls(admin.transport),
                admin.application_name,
                0,
                admin.id,
                None,
                "statement",
            ),
        )


def _client(scene: Scene, client: ClientView) -> Row:
    who = client.identity
    server = client.server
    asked_at = client.pool.ledger.waiters.get(client) if client.is_waiting else None
    wait_us = 0 if asked_at is None else max(0, int((scene.now - asked_at) * 1e6))
    state = "active" if server is not None else "waiting" if client.is_waiting else "idle"
    return (
        *("C", f"{who.user}.{who.tenant}", str(DatabaseKey(who.database, who.tenant)), "none", state),
        *_addresses(client.transport),
        *(_time(scene, client.connected_at), _time(scene, client.last_request_at)),
        *(wait_us // 1_000_000, wait_us % 1_000_000),
        *(0, _ptr(client), _ptr(server), 0, _tls(client.transport), dict(client.settings).get("application_name", "")),
        *(len(client.statement_names()), client.id, who.tenant, MODE_NAMES[client.mode]),
    )


def server_rows(scene: Scene) -> Rows:
    """Server connections of all pools, those that drain too."""
    for pool in all_pools(scene.process.directory):
        yield None
        books = pool.ledger
        for state, slots in (("lent", books.active), ("idle", books.idle), ("new", books.opening)):
            for slot in list(slots):
                yield _server(scene, pool, slot, state)
        for slot in list(books.closing):
            yield _server(scene, pool, slot, "closing")


def _server(scene: Scene, pool: Pool, slot: Slot, state: str) -> Row:
    server = server_of(slot)
    key = pool.key
    head = ("S", f"{key.user}.{key.tenant}", str(database_of(key)), "none")
    if server is None:
        return (*head, state, "", 0, "", 0, None, None, 0, 0, 0, _ptr(slot), "", 0, "", "", 0, slot.id, key.tenant)
    client: ClientView | None = server.client  # type: ignore[assignment]  # `net` puts nothing else there
    is_retired = slot.generation != pool.ledger.generation
    return (
        *(*head, lent_state(server) if state == "lent" else state),
        *_addresses(server.transport),
        *(_time(scene, slot.opened_at), _time(scene, client.last_request_at if client is not None else 0.0)),
        *(0, 0, int(is_retired or state == "closing"), _ptr(server), _ptr(client), server.process_id, ""),
        server.stream.parameters.get(b"application_name", b"").decode("utf-8", "replace"),
        *(len(server.stream.pipeline.statements.copies), slot.id, key.tenant),
    )


def _ptr(thing: object | None) -> str:
    return "" if thing is None else f"0x{id(thing):x}"


def _tls(transport: asyncio.Transport) -> str:
    """Version and cipher; empty for a plain connection."""
    ssl_object = transport.get_extra_info("ssl_object")
    if ssl_object is None:
        return ""
    cipher = ssl_object.cipher()
    return f"{ssl_object.version()}/{cipher[0]}" if cipher else ""


def _addresses(transport: asyncio.Transport) -> tuple[str, int, str, int]:
    """The peer's address and port, then ours."""
    found: list[str | int] = []
    for which in ("peername", "sockname"):
        try:
            # uvloop asks the system, and a closed connection has nobody to ask.
            name = None if transport.is_closing() else transport.get_extra_info(which)
        except OSError:
            name = None
        found += (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("", 0)
    return tuple(found)  # type: ignore[return-value]


def _time(scene: Scene, monotonic: float) -> str | None:
    """A moment of the monotonic clock as PgBouncer writes times; None for 0.0, which is not known."""
    if not monotonic:
        return None
    moment = datetime.datetime.fromtimestamp(scene.wall + monotonic - scene.now, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
