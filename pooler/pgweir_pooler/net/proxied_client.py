"""A connection from a load balancer, until its PROXY protocol header has said whose it is.

Only those who are trusted may say so; anybody else's connection ends at once, without a word, because nobody is there
who speaks PostgreSQL. Then a `ClientLogin` takes over, as if the client had connected by itself.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from pgweir_contract.client_tls import ProxyProtocol
from pgweir_pooler.admission.addresses import Networks, host_of
from pgweir_pooler.errors import ProxyHeaderInvalid, ProxyNotTrusted
from pgweir_pooler.session.steps import Identity
from pgweir_pooler.wire.proxy_header import ProxyHeader, ProxyHeaderError, ProxyHeaderReader, plain_address

if TYPE_CHECKING:
    from pgweir_pooler.net.client_login import ClientLogin
    from pgweir_pooler.net.clients import Clients

HEADER_TIMEOUT_S = 5.0  # a load balancer sends it at once; the login's own time begins behind it


def make_protocol(
    clients: "Clients", proxy: ProxyProtocol, make_login: Callable[[], "ClientLogin"]
) -> Callable[[], asyncio.Protocol]:
    """What a listener makes for each connection."""
    if proxy.mode == "Disable":
        return make_login
    trusted = Networks(allowed=proxy.trusted_cidrs)
    return lambda: ProxiedClient(clients, trusted, make_login)


class ProxiedClient(asyncio.Protocol):
    """One connection before its header."""

    __slots__ = ("_clients", "_make_login", "_peer", "_reader", "_timer", "_transport", "_trusted")

    def __init__(self, clients: "Clients", trusted: Networks, make_login: Callable[[], "ClientLogin"]) -> None:
        self._clients = clients
        self._trusted = trusted
        self._make_login = make_login
        self._peer = ""
        self._reader: ProxyHeaderReader | None = ProxyHeaderReader()  # until the header is read, or the end
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports derive from no asyncio class
        self._peer = host_of(transport.get_extra_info("peername"))
        clients = self._clients
        if not self._trusted.admit(self._peer):
            self._refuse(ProxyNotTrusted("connections to this listener come from load balancers"))
            return
        while len(clients.unannounced) >= clients.limits.max_half_open_logins:
            next(iter(clients.unannounced)).end()  # the oldest has had its time, as in ClientLogin
        clients.unannounced[self] = None
        timeout_s = min(HEADER_TIMEOUT_S, clients.limits.login_timeout)
        self._timer = clients.loop.call_later(
            timeout_s, self._refuse, ProxyHeaderInvalid("the PROXY protocol header did not come in time")
        )

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            return
        try:
            header = self._reader.receive(data)
        except ProxyHeaderError as error:
            self._refuse(ProxyHeaderInvalid(str(error)))
            return
        if header is not None:
            self._hand_over(header)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    def end(self) -> None:
        """Closes it: there are too many, or the process drains."""
        self._forget()
        self._transport.abort()

    def _hand_over(self, header: ProxyHeader) -> None:
        self._forget()
        login = self._make_login()
        login.client_address = header.address or plain_address(self._peer)
        login.connection_made(self._transport)
        self._transport.set_protocol(login)
        if header.rest:
            login.data_received(header.rest)

    def _refuse(self, error: ProxyHeaderInvalid | ProxyNotTrusted) -> None:
        self._clients.counters.error(error.code)
        nobody = Identity("", "", "")
        self._clients.door.log_refusal(error, nobody, self._peer, event="proxy refused", proxy=self._peer)
        self.end()

    def _forget(self) -> None:
        self._reader = None
        self._clients.unannounced.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
