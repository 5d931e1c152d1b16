"""The commands that change something, carried out on the directory and the process.

Orders are written down first and pools are told after, so that a pool that is made meanwhile knows them. PAUSE and
WAIT_CLOSE wait; when their admin leaves or cancels, what was ordered stays in force.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pgweir_contract.names import CONSOLE_ALIAS, CONSOLE_DATABASE
from pgweir_pooler.console.census import all_pools, database_of
from pgweir_pooler.console.commands import NAMES_HINT, Command, Verb
from pgweir_pooler.errors import CommandNotPossible, NoSuchClient, NoSuchDatabase, ReloadFailed, Terminated
from pgweir_pooler.orders import DatabaseKey
from pgweir_pooler.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from pgweir_pooler.console.view import ProcessView, ShutdownMode
    from pgweir_pooler.pool.pool import Pool


class Actions:
    """One for the process."""

    def __init__(self, process: ProcessView) -> None:
        self._process = process
        # PAUSE commands that wait, each with what it paused (None: everything); RESUME ends them.
        self._pausing: dict[asyncio.Future[None], DatabaseKey | None] = {}

    async def carry_out(self, command: Command) -> None:
        """Returns when it is done; raises a ConsoleError."""
        key = self._database(command) if command.verb in _TAKE_DATABASE and command.argument else None
        await self._ACTIONS[command.verb](self, command, key)

    # --- one for each verb

    async def _pause(self, _command: Command, key: DatabaseKey | None) -> None:
        orders = self._process.directory.orders
        self._refuse_if_all_paused()
        if key is None:
            orders.is_all_paused = True
        else:
            orders.paused.add(key)
        await self._pause_pools(key)
        resumed = asyncio.get_running_loop().create_future()
        self._pausing[resumed] = key
        try:
            emptied = [pool.emptied() for pool in self._pools(key)]
            await _all_or_first(emptied, resumed)
        finally:
            del self._pausing[resumed]

    async def _resume(self, _command: Command, key: DatabaseKey | None) -> None:
        orders = self._process.directory.orders
        if key is None:
            if not orders.is_all_paused:
                hint = "A database that was paused by its name is resumed by its name." if orders.paused else ""
                raise CommandNotPossible("the pooler is not paused", hint=hint)
            orders.is_all_paused = False
        else:
            if key not in orders.paused:
                raise CommandNotPossible(f"database {key} is not paused by its name")
            orders.paused.discard(key)
        for future, paused in self._pausing.items():
            if paused == key and not future.done():
                future.set_result(None)
        slices = Slices()
        for pool in self._pools(key):
            if not orders.is_paused(database_of(pool.key)):
                pool.resume()
            await slices.pause()

    async def _disable(self, _command: Command, key: DatabaseKey | None) -> None:
        assert key is not None
        self._process.directory.orders.disabled.add(key)

    async def _enable(self, _command: Command, key: DatabaseKey | None) -> None:
        assert key is not None
        self._process.directory.orders.disabled.discard(key)

    async def _reconnect(self, _command: Command, key: DatabaseKey | None) -> None:
        await _each(self._pools(key), lambda pool: pool.retire())

    async def _kill(self, _command: Command, key: DatabaseKey | None) -> None:
        orders = self._process.directory.orders
        self._refuse_if_all_paused()
        if key is None:
            orders.is_all_paused = True
        else:
            orders.paused.add(key)
        await self._pause_pools(key)
        slices = Slices()
        for client in list(self._process.client_sessions()):
            who = client.identity
            if key is None or key == DatabaseKey(who.database, who.tenant):
                client.close(Terminated("an admin has killed the database's connections"))
                await slices.pause()

    async def _kill_client(self, command: Command, _key: DatabaseKey | None) -> None:
        wanted = int(command.argument)
        for client in self._process.client_sessions():
            if client.id == wanted:
                client.close(Terminated("an admin has ended this connection"))
                return
        raise NoSuchClient(f"there is no client {wanted}", hint="The column id of SHOW CLIENTS has it.")

    async def _reload(self, _command: Command, _key: DatabaseKey | None) -> None:
        problems = await self._process.reload()
        if problems:
            shown = "\n".join(f"{where}: {what}" for where, what in problems[:_PROBLEMS_SHOWN])
            raise ReloadFailed(f"the configuration has problems ({len(problems)})", detail=shown)

    async def _shutdown(self, command: Command, _key: DatabaseKey | None) -> None:
        mode: ShutdownMode = command.argument  # type: ignore[assignment]  # one of SHUTDOWN_MODES
        self._process.shut_down(mode)

    async def _wait_close(self, _command: Command, key: DatabaseKey | None) -> None:
        await _all_or_first([pool.renewed() for pool in self._pools(key)], None)

    # --- parts

    def _refuse_if_all_paused(self) -> None:
        if self._process.directory.orders.is_all_paused:
            raise CommandNotPossible("the pooler is already paused", hint="RESUME ends the pause.")

    async def _pause_pools(self, key: DatabaseKey | None) -> None:
        orders = self._process.directory.orders
        slices = Slices()
        for pool in self._pools(key):
            if orders.is_paused(database_of(pool.key)):  # not, when it was resumed meanwhile
                pool.pause()
            await slices.pause()

    def _pools(self, key: DatabaseKey | None) -> list[Pool]:
        pools = all_pools(self._process.directory)
        return pools if key is None else [pool for pool in pools if database_of(pool.key) == key]

    def _database(self, command: Command) -> DatabaseKey:
        name = command.argument
        if name in (CONSOLE_DATABASE, CONSOLE_ALIAS):
            raise CommandNotPossible(f"{command.verb.value} does not work on the console itself")
        database, _, tenant_id = name.rpartition(".")
        tenant = self._process.directory.tenants.get(tenant_id)
        if tenant is None or database not in tenant.databases:
            raise NoSuchDatabase(f"there is no database {name[:_NAME_SHOWN_CHARS]}", hint=NAMES_HINT)
        return DatabaseKey(database, tenant_id)

    _ACTIONS: ClassVar[dict[Verb, Callable[[Actions, Command, DatabaseKey | None], Coroutine[Any, Any, None]]]] = {
        Verb.PAUSE: _pause,
        Verb.RESUME: _resume,
        Verb.DISABLE: _disable,
        Verb.ENABLE: _enable,
        Verb.RECONNECT: _reconnect,
        Verb.KILL: _kill,
        Verb.KILL_CLIENT: _kill_client,
        Verb.RELOAD: _reload,
        Verb.SHUTDOWN: _shutdown,
        Verb.WAIT_CLOSE: _wait_close,
    }


_PROBLEMS_SHOWN: Final = 20
_NAME_SHOWN_CHARS: Final = 130  # a database's and a tenant's longest names, and the dot
_TAKE_DATABASE: Final = frozenset(Verb) - {Verb.SHOW, Verb.SET, Verb.KILL_CLIENT, Verb.RELOAD, Verb.SHUTDOWN}


async def _each(pools: Iterable[Pool], act: Callable[[Pool], None]) -> None:
    slices = Slices()
    for pool in pools:
        act(pool)
        await slices.pause()


async def _all_or_first(every: list[asyncio.Future[None]], ended: asyncio.Future[None] | None) -> None:
    """Waits until all are done; raises CommandNotPossible when `ended` is done before. Leaves no future behind."""
    every = [future for future in every if not future.done()]
    if not every:
        return
    whole = asyncio.gather(*every)
    waited_for: list[asyncio.Future[Any]] = [whole] if ended is None else [whole, ended]
    try:
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            raise CommandNotPossible("the pause was ended by RESUME before all servers were closed")
    finally:
        whole.cancel()  # also cancels what it gathered
        await asyncio.gather(whole, return_exceptions=True)
