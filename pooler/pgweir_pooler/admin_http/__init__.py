"""The HTTP side of a pooler: probes and metrics on one port, `/status` on another."""

from pgweir_pooler.admin_http.server import Admin, start_admin
from pgweir_pooler.admin_http.view import ProcessView

__all__ = ["Admin", "ProcessView", "start_admin"]
