"""A StartupMessage names tenant, user, database and settings, and no rule tells which tenants exist."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.errors import InvalidParameter, NoTenant, NotSupported, PoolerError
from pgweir_pooler.session.startup import CONSOLE_TENANT, Startup, parse_startup, split_options
from pgweir_pooler.session.steps import Identity


def parsed(
    default_tenant: str | None = None,
    is_tenant: Callable[[str], bool] | None = None,
    /,
    **parameters: str,
) -> Startup:
    pairs = [(name.encode(), value.encode()) for name, value in parameters.items()]
    return parse_startup(pairs, default_tenant=default_tenant, is_tenant=is_tenant)


def is_acme(name: str) -> bool:
    return name == "acme"


@pytest.mark.parametrize(
    ("default_tenant", "user", "options", "expected"),
    [
        (None, "bob.acme", "", ("acme", "bob")),
        (None, "first.last.acme", "", ("acme", "first.last")),
        (None, "bob", "-c pgweir.tenant=acme", ("acme", "bob")),
        (None, "bob", "-cpgweir.tenant=acme", ("acme", "bob")),
        (None, "bob", "--pgweir.tenant=acme", ("acme", "bob")),
        (None, "bob", "-c PgWeir.Tenant=acme", ("acme", "bob")),
        (None, "bob", "reference=acme", ("acme", "bob")),
        (None, "bob", "-c geqo=off reference=acme", ("acme", "bob")),
        (None, "bob.acme", "reference=acme", ("acme", "bob")),
        (None, "first.last", "reference=acme", ("acme", "first.last")),
        (None, "bob.other", "reference=acme", ("acme", "bob.other")),
        ("main", "bob", "", ("main", "bob")),
        ("main", "bob.acme", "", ("acme", "bob")),
        ("main", "bob.", "", ("main", "bob.")),
        ("main", ".bob", "", ("main", ".bob")),
        ("main", "bob", "reference=acme", ("acme", "bob")),
        ("main", "bob", "reference=", ("main", "bob")),
    ],
)
def test_the_tenant_comes_from_options_then_the_suffix_then_the_default(
    default_tenant: str | None, user: str, options: str, expected: tuple[str, str]
) -> None:
    tenant, name = expected
    startup = parsed(default_tenant, user=user, options=options)
    assert startup.identity == Identity(tenant, name, name)
    assert startup.shown_user == name
    assert "pgweir.tenant" not in dict(startup.settings)


def test_a_startup_parameter_of_its_own_names_the_tenant_too_and_overrides_options() -> None:
    startup = parsed(
        user="bob", options="-c pgweir.tenant=other -c geqo=on", **{"pgweir.tenant": "acme", "geqo": "off"}
    )
    assert startup.identity.tenant == "acme"
    assert startup.settings == (("geqo", "off"),)


def test_a_caller_who_knows_its_tenants_gives_a_dotted_user_to_the_default_tenant() -> None:
    assert parsed("main", is_acme, user="bob.acme").identity == Identity("acme", "bob", "bob")
    assert parsed("main", is_acme, user="bob.nope").identity == Identity("main", "bob.nope", "bob.nope")


@pytest.mark.parametrize("default_tenant", [None, "main"])
@pytest.mark.parametrize("options", ["", "reference=acme", "reference=nope"])
def test_the_user_in_errors_does_not_tell_whether_a_tenant_exists(default_tenant: str | None, options: str) -> None:
    def shown(suffix: str, *tenants: str) -> str:
        startup = parsed(default_tenant, lambda name: name in tenants, user=f"bob.{suffix}", options=options)
        return startup.shown_user

    assert shown("acme", "acme", "main") == shown("acme", "main")


@pytest.mark.parametrize("user", ["bob", "bob.", ".acme"])
def test_no_tenant_at_all_is_refused_with_a_hint_that_says_how(user: str) -> None:
    with pytest.raises(NoTenant) as caught:
        parsed(user=user)
    assert "user.tenant" in caught.value.hint
    assert "pgweir.tenant" in caught.value.hint


def test_no_tenant_is_asked_about_when_there_is_no_default_one() -> None:
    def never(_: str) -> bool:
        raise AssertionError

    assert parsed(None, never, user="bob.nope").identity.tenant == "nope"


@pytest.mark.parametrize("parameters", [{}, {"user": ""}, {"database": "x"}])
def test_a_startup_without_a_user_is_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter, match="no PostgreSQL user name") as caught:
        parsed("main", **parameters)
    assert caught.value.wire_sqlstate() == "28000"


@pytest.mark.parametrize(("database", "expected"), [("", "bob"), ("shop", "shop"), ("a.b", "a.b")])
def test_the_database_is_the_user_without_suffix_unless_named(database: str, expected: str) -> None:
    assert parsed(user="bob.acme", database=database).identity == Identity("acme", "bob", expected)


@pytest.mark.parametrize(
    ("default_tenant", "options", "user", "expected"),
    [
        (None, "", "bob.acme", Identity("acme", "bob", "bob")),
        (None, "", "first.last.acme", Identity("acme", "first.last", "first.last")),
        (None, "reference=acme", "bob.acme", Identity("acme", "bob", "bob")),
        (None, "reference=acme", "first.last", Identity("acme", "first.last", "first.last")),
        ("main", "", "bob.acme", Identity("acme", "bob", "bob")),
        ("main", "", "first.last", Identity("main", "first.last", "first.last")),
    ],
)
def test_the_whole_user_as_database_is_libpqs_way_to_name_none(
    default_tenant: str | None, options: str, user: str, expected: Identity
) -> None:
    assert parsed(default_tenant, is_acme, user=user, database=user, options=options).identity == expected


@pytest.mark.parametrize("default_tenant", [None, "main"])
@pytest.mark.parametrize("database", ["pgweir", "pgbouncer"])
@pytest.mark.parametrize("user", ["jane", "pgbouncer"])
def test_a_user_without_a_tenant_and_the_consoles_database_are_an_admin(
    default_tenant: str | None, database: str, user: str
) -> None:
    pairs = [(b"user", user.encode()), (b"database", database.encode())]
    startup = parse_startup(pairs, default_tenant=default_tenant, has_console=True)
    assert startup.identity == Identity(CONSOLE_TENANT, user, "pgweir")
    assert startup.shown_user == user


@pytest.mark.parametrize(
    ("parameters", "identity"),
    [
        ({"user": "bob.acme", "database": "pgweir"}, Identity("acme", "bob", "pgweir")),
        ({"user": "bob", "database": "pgweir", "options": "reference=acme"}, Identity("acme", "bob", "pgweir")),
        ({"user": "bob", "database": "shop"}, Identity("main", "bob", "shop")),
        ({"user": "bob", "database": "PGWEIR"}, Identity("main", "bob", "PGWEIR")),
        ({"user": "bob"}, Identity("main", "bob", "bob")),
    ],
)
def test_others_are_clients_of_tenants_though_there_is_a_console(
    parameters: dict[str, str], identity: Identity
) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in parameters.items()]
    assert parse_startup(pairs, default_tenant="main", has_console=True).identity == identity


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", []),
        ("  \t\n\v\f\r ", []),
        ("a b", ["a", "b"]),
        ("  a   b  ", ["a", "b"]),
        (r"a\ b c", ["a b", "c"]),
        (r"a\\b", [r"a\b"]),
        (r"a\\ b", ["a\\", "b"]),
        (r"a\bc", ["abc"]),
        ("a\\", ["a"]),
        ("a\u00a0b", ["a\u00a0b"]),
        ("\\", [""]),
    ],
)
def test_options_are_split_as_postgresql_splits_them(options: str, words: list[str]) -> None:
    assert split_options(options) == words


@given(st.lists(st.text(min_size=1)))
def test_escaped_words_come_back_as_they_were(words: list[str]) -> None:
    escaped = " ".join("".join("\\" + char if char in " \t\n\v\f\r\\" else char for char in word) for word in words)
    assert split_options(escaped) == words


@pytest.mark.parametrize(
    ("parameters", "settings"),
    [
        ({"DateStyle": "ISO", "application_name": ""}, (("application_name", ""), ("datestyle", "ISO"))),
        ({"options": "-c geqo=off"}, (("geqo", "off"),)),
        ({"options": "--search-path=a,b"}, (("search_path", "a,b"),)),
        ({"options": r"-csearch_path=a,\ b"}, (("search_path", "a, b"),)),
        ({"options": "-c a.b=1=2"}, (("a.b", "1=2"),)),
        ({"options": "-c geqo=off -c GEQO=on"}, (("geqo", "on"),)),
        ({"options": "-c geqo=off", "geqo": "on"}, (("geqo", "on"),)),
        ({"geqo": "on", "options": "-c geqo=off"}, (("geqo", "on"),)),
    ],
)
def test_settings_are_sorted_lower_case_and_the_last_one_counts(
    parameters: dict[str, str], settings: tuple[tuple[str, str], ...]
) -> None:
    assert parsed(user="bob.acme", **parameters).settings == settings


@pytest.mark.parametrize(
    ("options", "sqlstate"),
    [
        ("-d 5", "42601"),
        ("-fs", "42601"),
        ("stray", "42601"),
        ("-c", "42601"),
        ("-c geqo", "42601"),
        ("--geqo", "42601"),
        ("--", "42601"),
        ("\\", "42601"),
        ("-c =1", "42602"),
        ("-c a;b=1", "42602"),
        ("-c 1a=1", "42602"),
        ("-c a.=1", "42602"),
        ("-c a\\ b=1", "42602"),
        ("-c " + "a" * 128 + "=1", "42602"),
        ("-c pgweir.other=1", "42704"),
    ],
)
def test_options_that_cannot_be_understood_are_refused(options: str, sqlstate: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parsed(user="bob.acme", options=options)
    assert caught.value.wire_sqlstate() == sqlstate


@pytest.mark.parametrize("name", ["user", "database", "replication", "options", "_pq_.x", "USER"])
def test_options_cannot_smuggle_another_user_or_database_to_the_server(name: str) -> None:
    with pytest.raises(InvalidParameter, match="unrecognized configuration parameter"):
        parsed(user="bob.acme", options=f"-c {name}=postgres")


@pytest.mark.parametrize("name", ["User", "DATABASE", "Options", "rePlication", "_PQ_.x"])
def test_a_reserved_name_in_other_letters_is_no_setting(name: str) -> None:
    with pytest.raises(InvalidParameter, match="unrecognized configuration parameter"):
        parsed(user="bob.acme", **{name: "postgres"})


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "é", "a" * 128])
def test_a_name_that_is_no_setting_is_refused_and_shown_on_one_line(name: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid configuration parameter name") as caught:
        parse_startup([(b"user", b"bob.acme"), (name.encode(), b"x")], default_tenant=None)
    assert caught.value.client_text().isprintable()
    assert len(caught.value.client_text()) < 150


@pytest.mark.parametrize("value", ["false", "off", "0", "no", "FALSE", "f", "of", "n", ""])
def test_replication_that_is_off_is_accepted(value: str) -> None:
    assert parsed(user="bob.acme", replication=value).settings == ()


@pytest.mark.parametrize("value", ["true", "on", "1", "yes", "database", "o", "offf", "00", "2"])
def test_replication_is_not_supported(value: str) -> None:
    with pytest.raises(NotSupported, match="replication"):
        parsed(user="bob.acme", replication=value)


@pytest.mark.parametrize("pair", [(b"user", b"bob\xff.acme"), (b"geqo\xff", b"x"), (b"geqo", b"\xc0\x80")])
def test_bad_utf8_is_refused(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(InvalidParameter, match="UTF-8"):
        parse_startup([(b"user", b"bob.acme"), pair], default_tenant=None)


@pytest.mark.parametrize(
    "parameters",
    [{f"a{i}": "" for i in range(129)}, {"search_path": "x" * 8_200}, {"search_path": "é" * 4_100}],
)
def test_settings_are_bounded_in_number_and_bytes(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter, match="too many or too long"):
        parsed(user="bob.acme", **parameters)


def test_protocol_options_are_collected_and_no_settings() -> None:
    startup = parsed(user="bob.acme", **{"_pq_.a": "1", "_pq_.b": "\u00e9"})
    assert startup.unknown_options == (b"_pq_.a", b"_pq_.b")
    assert startup.settings == ()


NAMES = st.sampled_from([b"user", b"database", b"options", b"replication", b"_pq_.x", b"geqo"]) | st.binary(max_size=6)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=20)), max_size=6), st.sampled_from([None, "main"]))
def test_random_parameters_raise_nothing_but_our_errors(
    pairs: list[tuple[bytes, bytes]], default_tenant: str | None
) -> None:
    try:
        startup = parse_startup(pairs, default_tenant=default_tenant)
    except PoolerError:
        return
    assert all(startup.identity)
    assert list(startup.settings) == sorted(dict(startup.settings).items())
