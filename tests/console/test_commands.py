"""A command's text is understood or refused with the right SQLSTATE."""

import pytest

from pgweir_pooler.console.columns import COLUMNS
from pgweir_pooler.console.commands import SHOWN, Command, Verb, parse_command
from pgweir_pooler.console.tables import TABLES
from pgweir_pooler.errors import ConsoleError


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("SHOW POOLS", Command(Verb.SHOW, "pools")),
        (" show\n Stats_Totals ; ", Command(Verb.SHOW, "stats_totals")),
        ("select version", Command(Verb.SHOW, "version")),
        ("SHOW client_encoding", Command(Verb.SHOW, "client_encoding")),
        ("PAUSE", Command(Verb.PAUSE)),
        ("pause;", Command(Verb.PAUSE)),
        ("PAUSE Shop.acme-1", Command(Verb.PAUSE, "Shop.acme-1")),
        ('PAUSE "odd ""name"".acme";', Command(Verb.PAUSE, 'odd "name".acme')),
        ("RESUME shop.acme", Command(Verb.RESUME, "shop.acme")),
        ("KILL_CLIENT 42", Command(Verb.KILL_CLIENT, "42")),
        ("SHUTDOWN WAIT_FOR_CLIENTS", Command(Verb.SHUTDOWN, "wait_for_clients")),
        ("set client_encoding to 'utf8'", Command(Verb.SET, "client_encoding")),
        ("SET SESSION extra_float_digits = 3;", Command(Verb.SET, "extra_float_digits")),
        ("", None),
        (" ; ", None),
    ],
)
def test_commands(text: str, command: Command | None) -> None:
    assert parse_command(text) == command


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("SHOW", "42601"),
        ("SHOW NOTHING", "42601"),
        ("SHOW POOLS; SHOW STATS", "42601"),
        ("PAUSE a b", "42601"),
        ("PAUSE 'shop.acme'", "42601"),
        ("DISABLE", "42601"),
        ("ENABLE;", "42601"),
        ("RELOAD now", "42601"),
        ("KILL_CLIENT", "42601"),
        ("KILL_CLIENT abc", "42601"),
        ("SHUTDOWN NOW", "42601"),
        ("DROP TABLE x", "42601"),
        ("SHOW a" + " " * 60_000 + "b", "42601"),  # within the time of other tests
        ('PAUSE "' + '"' * 60_000, "42601"),
        ("SHOW FDS", "0A000"),
        ("SHOW DNS_HOSTS", "0A000"),
        ("SUSPEND", "0A000"),
        ("SET default_pool_size = 5", "0A000"),
        ("SET max_client_conn TO 'x; y'", "0A000"),
        ("BEGIN", "0A000"),
        ("START TRANSACTION", "0A000"),
    ],
)
def test_what_is_refused(text: str, sqlstate: str) -> None:
    with pytest.raises(ConsoleError) as caught:
        parse_command(text)
    assert (caught.value.sqlstate, caught.value.severity) == (sqlstate, "ERROR")


def test_a_password_in_a_refused_set_is_not_repeated() -> None:
    with pytest.raises(ConsoleError) as caught:
        parse_command("SET auth = 'hunter2'")
    assert "hunter2" not in caught.value.client_text() + caught.value.hint


def test_everything_that_is_shown_has_columns_and_rows() -> None:
    assert set(COLUMNS) == set(TABLES) == SHOWN - {"help"}


def test_pgbouncers_columns_come_first() -> None:
    names = {table: [column.name for column in columns] for table, columns in COLUMNS.items()}
    pools = (
        "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel "
        "sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts"
    )
    clients = (
        "type user database replication state addr port local_addr local_port connect_time request_time wait wait_us "
        "close_needed ptr link remote_pid tls application_name prepared_statements id"
    )
    databases = (
        "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime pool_mode "
        "load_balance_hosts max_connections current_connections max_client_connections current_client_connections "
        "paused disabled"
    )
    users = (
        "name pool_size reserve_pool_size pool_mode max_user_connections current_connections "
        "max_user_client_connections current_client_connections"
    )
    totals = (
        "server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time "
        "client_parse_count server_parse_count bind_count client_login_count"
    )
    stats = (
        "database total_server_assignment_count total_xact_count total_query_count total_received total_sent "
        "total_xact_time total_query_time total_wait_time total_client_parse_count total_server_parse_count "
        "total_bind_count total_client_login_count avg_server_assignment_count avg_xact_count avg_query_count avg_recv "
        "avg_sent avg_xact_time avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count "
        "avg_bind_count avg_client_login_count"
    )
    wanted = {
        "pools": pools,
        "clients": clients,
        "servers": clients,
        "databases": databases,
        "users": users,
        "stats": stats,
        "stats_totals": f"database {totals}",
        "lists": "list items",
        "state": "key value",
        "config": "key value default changeable",
        "mem": "name size used free memtotal",
        "totals": "name value",
    }
    for table, columns in wanted.items():
        first = columns.split()
        assert names[table][: len(first)] == first
