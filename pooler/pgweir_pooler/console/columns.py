"""The columns of every result: PgBouncer's in PgBouncer's order and with its types, then ours. Pure.

PgBouncer 1.25 (src/admin.c, src/stats.c). Exporters read by name, people by position.
"""

from typing import Final, NamedTuple

TEXT: Final = 25  # type oids of pg_type
INT4: Final = 23
INT8: Final = 20
NUMERIC: Final = 1700


class Column(NamedTuple):
    """Name and type oid."""

    name: str
    oid: int


Columns = tuple[Column, ...]


def _columns(**names: int) -> Columns:
    return tuple(Column(name, oid) for name, oid in names.items())


def _of_type(oid: int, *names: str) -> Columns:
    return tuple(Column(name, oid) for name in names)


STAT_NAMES: Final = (
    "server_assignment_count",
    "xact_count",
    "query_count",
    "received",
    "sent",
    "xact_time",
    "query_time",
    "wait_time",
    "client_parse_count",
    "server_parse_count",
    "bind_count",
    "client_login_count",
)
# SHOW TOTALS has names of its own for some.
TOTALS_NAMES: Final = (
    *STAT_NAMES[:3],
    "client_bytes",
    "server_bytes",
    *STAT_NAMES[5:8],
    *("ps_client_parse_count", "ps_server_parse_count", "ps_bind_count"),
    STAT_NAMES[11],
)
_HALF: Final = (*STAT_NAMES[:3], "bytes_received", "bytes_sent", *STAT_NAMES[5:8])
_DATABASE: Final = Column("database", TEXT)

_CONNECTIONS: Final = (
    *_of_type(TEXT, "type", "user", "database", "replication", "state", "addr"),
    *_columns(port=INT4, local_addr=TEXT, local_port=INT4, connect_time=TEXT, request_time=TEXT),
    *_of_type(INT4, "wait", "wait_us", "close_needed"),
    *_of_type(TEXT, "ptr", "link"),
    *_columns(remote_pid=INT4, tls=TEXT, application_name=TEXT, prepared_statements=INT4, id=INT8),
    # ours
    *_of_type(TEXT, "tenant"),
)

COLUMNS: Final[dict[str, Columns]] = {
    "clients": (*_CONNECTIONS, Column("pool_mode", TEXT)),
    "servers": _CONNECTIONS,
    "pools": (
        *_of_type(TEXT, "database", "user"),
        *_of_type(INT4, "cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req"),
        *_of_type(INT4, "sv_active", "sv_active_cancel", "sv_being_canceled", "sv_idle", "sv_used", "sv_tested"),
        *_of_type(INT4, "sv_login", "maxwait", "maxwait_us"),
        *_of_type(TEXT, "pool_mode", "load_balance_hosts"),
        # ours
        *_columns(tenant=TEXT, sv_closing=INT4, paused=INT4, error=TEXT),
    ),
    "databases": (
        *_columns(name=TEXT, host=TEXT, port=INT4, database=TEXT, force_user=TEXT),
        *_of_type(INT4, "pool_size", "min_pool_size", "reserve_pool_size", "server_lifetime"),
        *_of_type(TEXT, "pool_mode", "load_balance_hosts"),
        *_of_type(INT4, "max_connections", "current_connections", "max_client_connections"),
        *_of_type(INT4, "current_client_connections", "paused", "disabled"),
        # ours; reserve_pool is what PgBouncer before 1.23 called reserve_pool_size
        *_columns(tenant=TEXT, reserve_pool=INT4),
    ),
    "users": (
        *_of_type(TEXT, "name", "pool_size", "reserve_pool_size", "pool_mode"),
        *_of_type(INT4, "max_user_connections", "current_connections"),
        *_of_type(INT4, "max_user_client_connections", "current_client_connections"),
        # ours
        *_of_type(TEXT, "tenant", "console_role"),
    ),
    "stats": (
        _DATABASE,
        *_of_type(NUMERIC, *(f"total_{name}" for name in STAT_NAMES)),
        *_of_type(NUMERIC, *(f"avg_{'recv' if name == 'received' else name}" for name in STAT_NAMES)),
        # ours; total_requests is what PgBouncer before 1.8 called total_query_count
        *_columns(tenant=TEXT, total_requests=NUMERIC),
    ),
    "stats_totals": (_DATABASE, *_of_type(NUMERIC, *_HALF, *STAT_NAMES[8:]), Column("tenant", TEXT)),
    "stats_averages": (
        _DATABASE,
        *_of_type(NUMERIC, *_HALF, *(f"avg_{name}" for name in STAT_NAMES[8:])),
        Column("tenant", TEXT),
    ),
    "totals": _columns(name=TEXT, value=NUMERIC),
    "lists": _columns(list=TEXT, items=INT4),
    "config": _of_type(TEXT, "key", "value", "default", "changeable"),
    "mem": _columns(name=TEXT, size=INT4, used=INT8, free=INT8, memtotal=INT8),
    "state": _of_type(TEXT, "key", "value"),
    "version": _of_type(TEXT, "version"),
}
