"""From a NeedSecret to the question that the client is asked, and what the login's end means for the next one."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from pgweir_pooler.net.client_check import Asked, ask_nobody, ask_user

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgweir_pooler.directory import Login, Tenant
    from pgweir_pooler.net.clients import Clients
    from pgweir_pooler.session.frontend_login import FrontendLogin
    from pgweir_pooler.session.steps import FrontendStep, NeedSecret


class ClientLookup:
    """One login's. `answer` is called once, with the steps to take, unless the lookup is abandoned before."""

    __slots__ = ("_address", "_asked", "_clients", "_front", "_need")

    def __init__(self, clients: Clients, need: NeedSecret, front: FrontendLogin, address: str) -> None:
        self._clients = clients
        self._need = need
        self._front = front
        self._address = address
        self._asked: Asked | None = None

    def begin(self, answer: Callable[[list[FrontendStep]], None]) -> None:
        """May answer at once."""
        tenant = self._clients.directory.tenants.get(self._need.tenant)
        login = tenant.login_of(self._need.user) if tenant else None
        answer(self._ask(tenant, login))

    def abandon(self) -> None:
        """The client is gone or refused: nothing is answered any more."""

    def failed(self) -> None:
        """The client did not know the password."""
        if self._asked is not None:
            self._asked.failed(time())

    def succeeded(self) -> None:
        """The client proved who it is."""
        tenant = self._clients.directory.tenants.get(self._need.tenant)
        if self._asked is not None and self._asked.succeeded(self._front, time()) and tenant is not None:
            tenant.retry_pools(self._need.user)

    def _ask(self, tenant: Tenant | None, login: Login | None) -> list[FrontendStep]:
        need, now = self._need, time()
        method = tenant.entry.auth.client_method if tenant else "ScramSHA256"
        asked = None
        if login is not None:
            name = login.entry.name
            asked = ask_user(login.credentials, method, name, self._front.sent_user, self._address, now)
        if asked is None:
            usual = tenant.usual_secret() if tenant else None
            asked = ask_nobody(method, usual, f"{need.tenant}\0{need.user}", self._clients.mock_key)
        self._asked = asked
        return asked.begin(self._front)
