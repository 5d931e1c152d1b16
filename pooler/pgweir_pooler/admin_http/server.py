"""The two HTTP ports: 9127 for probes and metrics, which anyone who reaches it may read, and 9128 for `/status`.

`/status` names hosts, so 9128 answers loopback peers alone; everyone else gets 403, whatever the path.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from pgweir_pooler.admin_http.exposition import format_for
from pgweir_pooler.admin_http.metrics import Metrics
from pgweir_pooler.admin_http.status import status_text

if TYPE_CHECKING:
    import socket

    from aiohttp.typedefs import Handler

    from pgweir_pooler.admin_http.view import ProcessView

_MAX_LINE_BYTES: Final = 2048
_MAX_HEADERS: Final = 32
_KEEPALIVE_S: Final = 75.0  # longer than the usual scrape interval
# How long an answer that is being written may delay the process's end.
_SHUTDOWN_S: Final = 0.2


class Admin:
    """Both ports, started."""

    def __init__(self, view: ProcessView) -> None:
        self._view = view
        self._metrics = Metrics(view)
        self._http = _runner(self._http_app())
        self._control = _runner(self._control_app())

    async def start(self, http_socket: socket.socket, control_socket: socket.socket) -> None:
        """Listens; the sockets are bound and belong to this object from now on. OSError: nothing is left open."""
        try:
            for runner, listener in ((self._http, http_socket), (self._control, control_socket)):
                await runner.setup()
                await web.SockSite(runner, listener).start()
        except OSError:
            await self.close()
            http_socket.close()
            control_socket.close()
            raise

    async def close(self) -> None:
        """Stops within a fraction of a second; answers that are not written by then are cut off."""
        await asyncio.gather(self._http.cleanup(), self._control.cleanup())
        await self._metrics.close()

    def _http_app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_LINE_BYTES)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._write_metrics)
        app.on_response_prepare.append(_hide_server)
        return app

    def _control_app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_LINE_BYTES, middlewares=[_loopback_only])
        app.router.add_get("/status", self._status)
        app.on_response_prepare.append(_hide_server)
        return app

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        state = self._view.state
        if state == "Serving":
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"{state}\n")

    async def _write_metrics(self, request: web.Request) -> web.Response:
        form = format_for(request.headers.get("Accept", ""))
        body = await self._metrics.text(form)
        return web.Response(body=body, headers={"Content-Type": form.content_type})

    async def _status(self, _: web.Request) -> web.Response:
        return web.Response(body=await status_text(self._view), content_type="application/json", charset="utf-8")


async def start_admin(view: ProcessView, *, http_socket: socket.socket, control_socket: socket.socket) -> Admin:
    """Starts both ports on sockets that are bound; see `Admin.start`."""
    admin = Admin(view)
    await admin.start(http_socket, control_socket)
    return admin


def is_loopback(host: str) -> bool:
    """Whether a peer's address is this machine's own 127.0.0.0/8 or ::1, also when IPv6 carries the former."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


@web.middleware
async def _loopback_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not (isinstance(peer, tuple) and is_loopback(peer[0])):
        raise web.HTTPForbidden(text="this port answers on loopback only\n")
    return await handler(request)


async def _hide_server(_: web.Request, response: web.StreamResponse) -> None:
    """The versions of Python and aiohttp are nobody's business."""
    response.headers.popall("Server", None)


def _runner(app: web.Application) -> web.AppRunner:
    return web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=_KEEPALIVE_S,
        lingering_time=0.0,
        max_field_size=_MAX_LINE_BYTES,
        max_headers=_MAX_HEADERS,
        max_line_size=_MAX_LINE_BYTES,
        shutdown_timeout=_SHUTDOWN_S,
    )
