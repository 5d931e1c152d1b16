"""From a NeedSecret to the question that the client is asked, and what the login's end means for the next one."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from pgweir_pooler.net.client_check import Asked, ask_nobody, ask_user
from pgweir_pooler.user_cache import Freshness
from pgweir_pooler.wire.scram import derived_salt

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pgweir_pooler.directory import Tenant
    from pgweir_pooler.errors import PoolerError
    from pgweir_pooler.login import Login
    from pgweir_pooler.net.clients import Clients
    from pgweir_pooler.session.frontend_login import FrontendLogin
    from pgweir_pooler.session.steps import FrontendStep, NeedSecret

# A database that does not answer delays the logins of who is known for no longer than this.
STALE_WAIT_S = 2.0
ROLE_MAX_BYTES = 63  # PostgreSQL has no longer names; asked for one it cuts it, or says so by an error


class ClientLookup:
    """One login's. `answer` is called once, with the steps to take, unless the lookup is abandoned before."""

    __slots__ = ("_abandon", "_address", "_answer", "_asked", "_clients", "_front", "_is_barred", "_need", "_timer")

    def __init__(
        self, clients: Clients, need: NeedSecret, front: FrontendLogin, address: str, *, is_barred: bool = False
    ) -> None:
        """`is_barred`: the client may not come in, and is asked as one of a tenant that does not exist."""
        self._clients = clients
        self._need = need
        self._front = front
        self._address = address
        self._is_barred = is_barred
        self._asked: Asked | None = None
        self._answer: Callable[[list[FrontendStep]], None]
        self._abandon: Callable[[], None] | None = None  # while the user is looked up
        self._timer: asyncio.TimerHandle | None = None  # when what was known before has to do

    def begin(self, answer: Callable[[list[FrontendStep]], None]) -> None:
        """May answer at once."""
        self._answer = answer
        if self._is_barred:
            answer(self._ask(None, None))
            return
        tenant = self._clients.directory.tenants.get(self._need.tenant)
        if tenant is None or tenant.users is None or self._need.user in tenant.logins:
            self._go_on(tenant)
            return
        if len(self._need.user.encode()) > ROLE_MAX_BYTES:
            self._go_on(tenant)
            return
        freshness = tenant.users.look(self._need.user, time())
        if freshness is Freshness.FRESH:
            self._go_on(tenant)
            return
        if freshness is Freshness.STALE:
            self._timer = self._clients.loop.call_later(STALE_WAIT_S, self._known_has_to_do)
        self._abandon = self._clients.lookups.find(tenant, self._need.user, self._looked_up)
        if self._asked is not None:  # the answer was there at once
            self._abandon = None

    def abandon(self) -> None:
        """The client is gone or refused: nothing is answered any more."""
        abandon, self._abandon = self._abandon, None
        if abandon is not None:
            abandon()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _looked_up(self, error: PoolerError | None) -> None:
        self._abandon = None
        self.abandon()
        tenant = self._clients.directory.tenants.get(self._need.tenant)
        users = tenant.users if tenant else None
        if error is not None and (users is None or users.look(self._need.user, time()) is not Freshness.FRESH):
            self._answer(self._front.refused(error))
        else:
            self._go_on(tenant)

    def _known_has_to_do(self) -> None:
        self._timer = None
        self.abandon()
        self._go_on(self._clients.directory.tenants.get(self._need.tenant))

    def _go_on(self, tenant: Tenant | None) -> None:
        login = tenant.login_of(self._need.user) if tenant else None
        self._answer(self._ask(tenant, login))

    def failed(self) -> None:
        """The client did not know the password."""
        if self._is_barred:
            return
        if self._asked is not None:
            self._asked.failed(time())
        tenant = self._clients.directory.tenants.get(self._need.tenant)
        if tenant is not None and tenant.users is not None:
            tenant.users.doubt(self._need.user)

    def succeeded(self) -> None:
        """The client proved who it is."""
        tenant = self._clients.directory.tenants.get(self._need.tenant)
        if self._asked is not None and self._asked.succeeded(self._front, time()) and tenant is not None:
            tenant.retry_pools(self._need.user)

    def _ask(self, tenant: Tenant | None, login: Login | None) -> list[FrontendStep]:
        need, now = self._need, time()
        method = tenant.entry.auth.client_method if tenant else "ScramSHA256"
        whose = f"{need.tenant}\0{need.user}"
        asked = None
        if login is not None:
            name = login.entry.name
            salt = derived_salt(whose, self._clients.mock_key)
            asked = ask_user(login.credentials, method, name, self._front, self._address, now, salt)
        if asked is None:
            usual = tenant.usual_secret() if tenant else None
            asked = ask_nobody(method, usual, whose, self._clients.mock_key)
        self._asked = asked
        return asked.begin(self._front)
