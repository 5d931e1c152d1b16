"""A transport to PostgreSQL, secured as `upstream.tls` of its tenant says, before the first message on it.

By PostgreSQL's negotiation the server answers our question with one byte. Whatever comes behind it in clear is somebody
else's, and ends the connection: it must not be taken for what the server says under TLS (CVE-2021-23222). TLS that was
asked for is never given up; `Prefer` alone goes on in clear, when the server says that it has none.

A name is looked up here and the address dialled: what was judged is what is connected to.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from pydantic import SecretStr

from pgweir_contract.models import UpstreamTls
from pgweir_pooler.errors import PoolerError, ServerTlsFailed, ServerUnreachable, UpstreamNotAllowed
from pgweir_pooler.net.connect_reasons import os_reason, tls_reason
from pgweir_pooler.net.tls_contexts import ALPN, TlsContexts
from pgweir_pooler.net.upstream_guard import UpstreamGuard
from pgweir_pooler.wire.messages import ssl_request

_P = TypeVar("_P", bound=asyncio.Protocol)


class Target(NamedTuple):
    """A PostgreSQL server as a tenant names it."""

    host: str
    port: int
    tls: UpstreamTls
    pems: Mapping[str, SecretStr]
    connect_timeout_s: float


@dataclass(frozen=True, slots=True)
class Route:
    """How a server was reached. A cancel goes the same way: to the same address, and in clear only if this was."""

    host: str
    port: int
    address: str  # that the host had
    tls: UpstreamTls = field(default_factory=lambda: UpstreamTls(mode="Disable"))
    context: ssl.SSLContext | None = None  # None: in clear


@dataclass(frozen=True, slots=True)
class Channel(Generic[_P]):
    """A transport that is ready for the first message, and its protocol, whose `connection_made` was not called."""

    transport: asyncio.Transport
    protocol: _P
    route: Route

    @property
    def certificate(self) -> bytes | None:
        """The server's certificate (DER); None in clear."""
        tls_object: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        return None if tls_object is None else tls_object.getpeercert(binary_form=True)


class ServerChannels:
    """Opens channels; one for the process."""

    def __init__(self, guard: UpstreamGuard) -> None:
        self._guard = guard
        self._contexts = TlsContexts()

    async def open(self, target: Target, build: Callable[[], _P]) -> Channel[_P]:
        """A new channel; raises PoolerError. When cancelled, nothing is left open."""
        context = None
        if target.tls.mode != "Disable":
            context = self._contexts.context(target.tls, target.pems)
        addresses = self._allowed(target, await _resolve(target))
        error: PoolerError = ServerUnreachable("cannot connect to the database server: its name has no address")
        for address in addresses:
            # One address that does not answer must leave time for the others.
            timeout_s = target.connect_timeout_s / len(addresses) if len(addresses) > 1 else None
            route = Route(target.host, target.port, address, target.tls, context)
            try:
                question, transport = await _dial(route, timeout_s)
            except ServerUnreachable as unreachable:
                error = unreachable
                continue
            return await _secured(route, question, transport, build)
        raise error

    async def reopen(self, route: Route, build: Callable[[], _P]) -> Channel[_P]:
        """A channel by the way of an earlier one, and never in clear when that was not; raises PoolerError."""
        self._guard.judge(route.host, route.address, route.port)
        question, transport = await _dial(route, None)
        return await _secured(route, question, transport, build, is_settled=True)

    def _allowed(self, target: Target, addresses: list[str]) -> list[str]:
        """The addresses that may be connected to; raises UpstreamNotAllowed when there are others only."""
        allowed = []
        refusal: UpstreamNotAllowed | None = None
        for address in addresses:
            try:
                self._guard.judge(target.host, address, target.port)
            except UpstreamNotAllowed as error:
                refusal = error
            else:
                allowed.append(address)
        if refusal is not None and not allowed:
            raise refusal
        return allowed


async def _resolve(target: Target) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=1)
    except (OSError, UnicodeError) as error:
        raise ServerUnreachable(f"cannot connect to the database server: {os_reason(error)}") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _dial(route: Route, timeout_s: float | None) -> "tuple[_Question, asyncio.Transport]":
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            transport, question = await loop.create_connection(lambda: _Question(loop), route.address, route.port)
    except TimeoutError:
        raise ServerUnreachable("cannot connect to the database server: it does not answer") from None
    except OSError as error:
        raise ServerUnreachable(f"cannot connect to the database server: {os_reason(error)}") from None
    return question, transport


async def _secured(
    route: Route,
    question: "_Question",
    transport: asyncio.Transport,
    build: Callable[[], _P],
    *,
    is_settled: bool = False,  # TLS was spoken before, so it is spoken now
) -> Channel[_P]:
    try:
        is_direct = route.tls.negotiation == "Direct"
        if route.context is not None and not is_direct and not await question.has_tls():
            if is_settled or route.tls.mode != "Prefer":
                raise ServerTlsFailed("the database server does not support TLS, which upstream.tls demands")
            route = Route(route.host, route.port, route.address, route.tls)
        protocol = build()
        if route.context is None:
            transport.set_protocol(protocol)
            if question.is_lost:
                raise ServerUnreachable("the database server closed the connection")
            return Channel(transport, protocol, route)
        secure = await _handshake(route, route.context, transport, protocol)
        if is_direct and secure.get_extra_info("ssl_object").selected_alpn_protocol() != ALPN:
            secure.abort()
            raise ServerTlsFailed("the server does not say by ALPN that it is PostgreSQL (negotiation Direct)")
        return Channel(secure, protocol, route)
    except BaseException:
        transport.abort()
        raise


async def _handshake(
    route: Route, context: ssl.SSLContext, transport: asyncio.Transport, protocol: asyncio.Protocol
) -> asyncio.Transport:
    # For an address OpenSSL sends no SNI and looks for it in the certificate.
    name = (route.tls.server_name or route.host).rstrip(".")
    try:
        secure = await asyncio.get_running_loop().start_tls(transport, protocol, context, server_hostname=name)
    except (OSError, ValueError) as error:
        reason = tls_reason(error)
        if route.tls.negotiation == "Direct" and not isinstance(error, ssl.SSLCertVerificationError):
            reason += " (negotiation Direct needs PostgreSQL 17 or later)"
        raise ServerTlsFailed(f"no TLS with the database server: {reason}") from None
    assert secure is not None
    return secure


class _Question(asyncio.Protocol):
    """The first protocol of a connection: asks for TLS if told to, and takes one byte for an answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._answer: asyncio.Future[bytes] = loop.create_future()
        self._transport: asyncio.Transport
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports derive from no asyncio class

    async def has_tls(self) -> bool:
        """Asks; raises PoolerError for anything but the two answers there are."""
        self._transport.write(ssl_request())
        answer = await self._answer
        if answer[:1] not in (b"S", b"N"):
            # An old server, or one that cannot start a process: what it says is not to be trusted (CVE-2024-10977).
            raise ServerTlsFailed("the database server answered the question for TLS with an error")
        if len(answer) > 1:
            raise ServerTlsFailed("bytes came in clear before the TLS handshake: somebody may be in the middle")
        if answer == b"N":
            self._transport.resume_reading()
        return answer == b"S"

    def data_received(self, data: bytes) -> None:
        # What else comes is for TLS to read.
        self._transport.pause_reading()
        if not self._answer.done():
            self._answer.set_result(bytes(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self._answer.done():
            self._answer.set_exception(ServerUnreachable("the database server closed the connection"))
            self._answer.exception()  # not everybody asks
