"""What is known of users that are looked up, and for how long."""

from pgweir_pooler.login import Login
from pgweir_pooler.user_cache import (
    NOBODIES_MAX,
    NOBODY_S,
    REFRESH_S,
    RETRY_S,
    STALE_S,
    USERS_MAX,
    Found,
    Freshness,
    UserCache,
)
from pgweir_pooler.wire.scram import Verifier
from pgweir_pooler.wire.scram_keys import keys_of

FRESH, STALE, UNKNOWN = Freshness.FRESH, Freshness.STALE, Freshness.UNKNOWN
TTL_S = 300.0
ONE = Verifier.from_password("one", b"salt", 1)
TWO = Verifier.from_password("two", b"tlas", 1)


def found(cache: UserCache, name: str, now: float, verifier: Verifier = ONE) -> Login:
    cache.found(name, Login.looked_up(name), Found((verifier,)), now)
    login = cache.login(name)
    assert login is not None
    return login


def test_an_answer_counts_for_its_time() -> None:
    cache = UserCache(TTL_S)
    assert cache.look("bob", 0) is UNKNOWN
    login = found(cache, "bob", 0)
    assert (login.entry.name, login.is_listed) == ("bob", False)
    assert cache.look("bob", TTL_S - 1) is FRESH
    assert cache.look("bob", TTL_S) is STALE
    assert found(cache, "bob", TTL_S) is login
    assert cache.look("bob", TTL_S + 1) is FRESH


def test_that_there_is_nobody_counts_briefly() -> None:
    cache = UserCache(TTL_S)
    assert not cache.nobody("bob", 0)
    assert cache.look("bob", NOBODY_S - 1) is FRESH
    assert cache.login("bob") is None
    assert cache.look("bob", NOBODY_S) is UNKNOWN
    found(cache, "bob", NOBODY_S)
    assert cache.nobody("bob", NOBODY_S + 1), "it was there"
    assert cache.login("bob") is None


def test_a_wrong_password_makes_the_next_login_look_again_but_not_each() -> None:
    cache = UserCache(TTL_S)
    found(cache, "bob", 0)
    cache.doubt("bob")
    assert cache.look("bob", REFRESH_S / 2) is FRESH
    assert cache.look("bob", REFRESH_S) is STALE
    found(cache, "bob", REFRESH_S)
    assert cache.look("bob", 3 * REFRESH_S) is FRESH
    cache.doubt("nobody")


def test_a_key_that_postgresql_did_not_take_is_a_doubt() -> None:
    cache = UserCache(TTL_S)
    login, key = found(cache, "bob", 0), keys_of(b"one", ONE)
    assert key is not None
    login.credentials.proved(key)
    login.credentials.drop(key)
    assert cache.look("bob", REFRESH_S) is STALE
    found(cache, "bob", REFRESH_S, TWO)
    assert cache.look("bob", 2 * REFRESH_S) is FRESH


def test_another_secret_makes_old_keys_worthless() -> None:
    cache = UserCache(TTL_S)
    login, key = found(cache, "bob", 0), keys_of(b"one", ONE)
    assert key is not None
    login.credentials.proved(key)
    assert login.credentials.upstream(0) == (key,)
    found(cache, "bob", 1, TWO)
    assert login.credentials.upstream(0) == ()
    assert cache.usual == TWO


def test_who_was_found_counts_for_a_while_when_nobody_answers() -> None:
    cache = UserCache(TTL_S)
    found(cache, "bob", 0)
    assert cache.look("bob", TTL_S) is STALE
    cache.failed("bob", TTL_S)
    assert cache.look("bob", TTL_S + RETRY_S - 1) is FRESH, "it is not tried at each login"
    assert cache.look("bob", TTL_S + RETRY_S) is STALE
    assert cache.look("bob", TTL_S + STALE_S) is UNKNOWN
    cache.failed("bob", TTL_S + STALE_S)
    assert cache.look("bob", TTL_S + STALE_S) is UNKNOWN
    cache.failed("nobody", 0)
    assert cache.look("nobody", 0) is UNKNOWN


def test_nothing_counts_after_the_question_has_changed() -> None:
    cache = UserCache(TTL_S)
    found(cache, "bob", 0)
    cache.nobody("eve", 0)
    cache.outdate()
    assert cache.look("bob", 0) is UNKNOWN
    assert cache.look("eve", 0) is UNKNOWN
    assert cache.login("bob") is not None, "its pools stay until the answer is there"


def test_it_is_bounded_and_unknown_names_push_out_unknown_names_alone() -> None:
    cache = UserCache(TTL_S)
    for i in range(USERS_MAX + 5):
        found(cache, f"u{i}", 0)
        cache.trim({"u0", "u2"})
    assert len(cache.names()) == USERS_MAX
    assert cache.login("u0") is not None and cache.login("u2") is not None
    assert cache.login("u1") is None
    for i in range(NOBODIES_MAX + 1):
        cache.nobody(f"n{i}", 0)
    assert cache.look("n0", 0) is UNKNOWN
    assert cache.look("n1", 0) is FRESH
    assert len(cache.names()) == USERS_MAX
