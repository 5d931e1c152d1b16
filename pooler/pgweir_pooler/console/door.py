"""The console as the process sees it: who may come in, who is here, and the readings that averages need.

`net` knows it as a protocol (`ConsoleDoor`): it asks for the verifier of a user who names no tenant and the database
`pgweir`, and hands the transport over once the password was right.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Final

import structlog

from pgweir_contract.names import CONSOLE_DATABASE
from pgweir_pooler.console.actions import Actions
from pgweir_pooler.console.census import all_pools
from pgweir_pooler.console.commands import SESSION_SETTINGS, Command, Verb
from pgweir_pooler.console.scene import Scene
from pgweir_pooler.console.session import ConsoleSession
from pgweir_pooler.console.stats import STATS_PERIOD_S, Averages, stats_of
from pgweir_pooler.console.tables import TABLES, setting_rows
from pgweir_pooler.credentials import Credentials
from pgweir_pooler.errors import AuthenticationFailed, Terminated, TooManyClients
from pgweir_pooler.slices import Slices
from pgweir_pooler.wire.messages import (
    authentication_ok,
    backend_key_data,
    error_response_for,
    parameter_status,
    ready_for_query,
)
from pgweir_pooler.wire.password_verifier import PasswordVerifier
from pgweir_pooler.wire.scram import DEFAULT_ITERATIONS, Verifier, derived_salt, mock_verifier

if TYPE_CHECKING:
    from pgweir_contract.models import AdminUser
    from pgweir_pooler.console.encoding import Rows
    from pgweir_pooler.console.view import ProcessView
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.session.steps import Settings
    from pgweir_pooler.wire.scram import KnownSecret

log = structlog.get_logger()

ADMINS_MAX: Final = 100  # at a time
# psql and drivers read the number at its start and choose queries by it; the text is for people.
POSTGRESQL_VERSION: Final = "18.0"
_STATM: Final = ("virtual", "resident", "shared", "text", "library", "data")  # proc(5), in pages


class Console:
    """One for the process; all listeners lead to it."""

    def __init__(self, process: ProcessView) -> None:
        self._process = process
        self.actions = Actions(process)
        self._users: dict[str, AdminUser] = {}
        self._credentials: dict[str, Credentials] = {}  # made when first needed, kept while the user's secrets stay
        self._sessions: dict[tuple[int, bytes], ConsoleSession] = {}  # by cancel key
        self._averages = Averages(monotonic())

    def learn(self, users: tuple[AdminUser, ...]) -> None:
        """Takes over the users of cluster.json. Whoever is no longer one, or has another role, is disconnected."""
        before, self._users = self._users, {user.name: user for user in users}
        self._credentials = {
            name: known for name, known in self._credentials.items() if before[name] == self._users.get(name)
        }
        for session in list(self._sessions.values()):
            user = self._users.get(session.user)
            if user is None or user.role != session.role:
                session.close(Terminated("the admin was removed or has another role"))

    # --- what `net` asks

    @property
    def is_open(self) -> bool:
        """Whether anybody may log in at all."""
        return bool(self._users)

    def verifier(self, user: str, address: str = "") -> tuple[KnownSecret, bool]:
        """The user's verifier and True, or one that no password fits and False.

        Several passwords make one verifier; of several verifiers the next is offered after one failed, by address.
        """
        entry = self._users.get(user)
        name, key = f"\0{user}", self._process.mock_key
        if entry is None:
            return mock_verifier(name, key, self._usual_iterations()), False
        if user not in self._credentials:
            self._credentials[user] = _credentials_of(entry)
        credentials, now = self._credentials[user], time()
        made = credentials.made(now, derived_salt(name, key))
        choices = [x for x in (made, *credentials.stored(now)) if isinstance(x, Verifier | PasswordVerifier)]
        return choices[credentials.turn(address, now) % len(choices)], True

    def failed(self, user: str, address: str) -> None:
        """An admin's password was wrong."""
        if user in self._credentials:
            self._credentials[user].failed(address, time())

    def succeeded(self, user: str, address: str) -> None:
        """An admin's password was right."""
        if user in self._credentials:
            self._credentials[user].succeeded(address, time())

    def enter(self, user: str, settings: Settings, transport: asyncio.Transport, early: bytes, client_id: int) -> None:
        """An admin has proved who it is; `early` is what came behind the password."""
        entry = self._users.get(user)
        if entry is None:  # removed during the login
            _refuse(transport, AuthenticationFailed(user))
            return
        if len(self._sessions) >= ADMINS_MAX:
            _refuse(transport, TooManyClients(f"too many admins: the limit is {ADMINS_MAX}"))
            return
        application_name = dict(settings).get("application_name", "")
        session = ConsoleSession(self, user, entry.role, application_name, id=client_id)
        key = (secrets.randbits(31) | 1, secrets.token_bytes(4))
        self._sessions[key] = session
        transport.write(b"".join((authentication_ok(), self._welcome(session), backend_key_data(*key))))
        transport.write(ready_for_query())
        session.connection_made(transport)
        transport.set_protocol(session)
        log.info("admin logged in", admin=user, role=entry.role)
        if early:
            session.data_received(early)

    def cancel(self, process_id: int, secret: bytes) -> None:
        """A CancelRequest that is for no client of a tenant; unknown keys are ignored."""
        session = self._sessions.get((process_id, secret))
        if session is not None:
            session.cancel()

    # --- what sessions ask

    def left(self, session: ConsoleSession) -> None:
        """An admin is gone."""
        self._sessions = {key: other for key, other in self._sessions.items() if other is not session}

    def rows(self, command: Command) -> Rows:
        """The rows of a SHOW; none of any other command."""
        if command.verb is not Verb.SHOW:
            return iter(())
        if command.argument in SESSION_SETTINGS:
            return setting_rows(command.argument)
        table = TABLES.get(command.argument)
        return table(self._scene()) if table is not None else iter(())

    # --- the process

    async def keep_averages(self) -> None:
        """Reads all pools once a period while there is a console; until cancelled."""
        while True:
            await asyncio.sleep(STATS_PERIOD_S)
            if not self.is_open:
                continue
            reading = {}
            slices = Slices()
            for pool in all_pools(self._process.directory):
                reading[pool.counters] = stats_of(pool.counters)
                await slices.pause()
            self._averages.refresh(reading, monotonic())

    def close(self) -> None:
        """The process ends: admins are told."""
        for session in list(self._sessions.values()):
            session.close(Terminated("the pooler is shutting down"))

    # --- parts

    def _scene(self) -> Scene:
        return Scene(
            process=self._process,
            admins=tuple(self._sessions.values()),
            averages=self._averages,
            now=monotonic(),
            wall=time(),
            memory=_memory(),
            page_size=os.sysconf("SC_PAGE_SIZE"),
            console_database=CONSOLE_DATABASE,
        )

    def _usual_iterations(self) -> int:
        """So that who is not there looks like who is, also when verifiers have another count than ours."""
        for user in self._users:
            return self.verifier(user)[0].iterations
        return DEFAULT_ITERATIONS

    def _welcome(self, session: ConsoleSession) -> bytes:
        """ParameterStatus as PostgreSQL sends them."""
        is_admin = session.role == "Admin"
        shown = {
            "application_name": session.application_name,
            "client_encoding": "UTF8",
            "DateStyle": "ISO, MDY",
            "default_transaction_read_only": "off",
            "in_hot_standby": "off",
            "integer_datetimes": "on",
            "IntervalStyle": "postgres",
            "is_superuser": "on" if is_admin else "off",
            "server_encoding": "UTF8",
            "server_version": f"{POSTGRESQL_VERSION} (pgweir {self._process.version})",
            "session_authorization": session.user,
            "standard_conforming_strings": "on",
            "TimeZone": "GMT",
        }
        return b"".join(parameter_status(name.encode(), value.encode()) for name, value in shown.items())


def _refuse(transport: asyncio.Transport, error: PoolerError) -> None:
    transport.write(error_response_for(error))
    transport.close()


def _credentials_of(user: AdminUser) -> Credentials:
    return Credentials(
        tuple(secret.get_secret_value() for secret in user.passwords),
        tuple(Verifier.parse(secret.get_secret_value()) for secret in user.verifiers),
    )


def _memory() -> dict[str, int]:
    """Pages of this process by kind."""
    numbers = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return {name: int(number) for name, number in zip(_STATM, numbers, strict=False)}
