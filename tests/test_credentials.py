"""What the clients of one user are checked by, and what logs in for them."""

from datetime import UTC, datetime

from pydantic import SecretStr

from pgweir_contract.models import User
from pgweir_pooler.credentials import ADDRESS_S, ADDRESSES_MAX, Credentials
from pgweir_pooler.wire.md5 import Md5Hash
from pgweir_pooler.wire.scram import ClientExchange, ServerExchange, Verifier
from pgweir_pooler.wire.scram_keys import ScramKeys, keys_of

SALT = b"0123456789abcdef"
NEW = Verifier.from_password("new", SALT, iterations=3)
OLD = Verifier.from_password("old", b"fedcba9876543210", iterations=2)


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def exchange(verifier: Verifier, password: str) -> ServerExchange:
    """A whole exchange; the server's signature is checked by the client."""
    server, client = ServerExchange(verifier, "server"), ClientExchange(password, "client")
    answer = server.receive_final(client.receive_first(server.receive_first(client.first())))
    if answer is not None:
        client.receive_final(answer)
    return server


def test_one_exchange_is_good_for_each_of_several_passwords() -> None:
    verifier = Verifier.from_passwords(["newest", "newer", "old"], SALT, iterations=2)
    assert len({verifier.salt, *(SALT,)}) == 1
    for password in ("newest", "newer", "old"):
        proved = exchange(verifier, password)
        assert proved.proved == Verifier.from_password(password, SALT, iterations=2)
        assert proved.client_key
    wrong = exchange(verifier, "oldest")
    assert (wrong.proved, wrong.client_key) == (None, b"")


def test_old_passwords_count_until_the_overlap_ends() -> None:
    credentials = Credentials(("new", "old"), (NEW, OLD), overlap_until=moment(100))
    assert credentials.passwords(99) == ("new", "old")
    assert credentials.stored(99) == (NEW, OLD)
    both = credentials.made(99, SALT)
    assert both is not None and len(both.pairs()) == 2
    assert credentials.made(99, SALT) is both
    assert credentials.made(99, b"another salt....") is not both
    assert credentials.passwords(100) == credentials.upstream(100) == ("new",)
    assert credentials.stored(100) == (NEW,)
    one = credentials.made(100, SALT)
    assert one is not None and len(one.pairs()) == 1


def test_valid_until_is_a_moment() -> None:
    credentials = Credentials(("new",), valid_until=moment(100))
    assert credentials.is_valid(99.9) and not credentials.is_valid(100)
    assert Credentials(("new",)).is_valid(1e12)


def test_each_address_has_its_own_turn_and_few_are_remembered() -> None:
    credentials = Credentials((), (NEW, OLD))
    credentials.failed("10.0.0.1", 0)
    assert [credentials.turn(address, 1) for address in ("10.0.0.1", "10.0.0.2")] == [1, 0]
    credentials.succeeded("10.0.0.1", ADDRESS_S - 1)
    assert credentials.turn("10.0.0.1", ADDRESS_S + 1) == 1, "what worked is kept"
    assert credentials.turn("10.0.0.1", 2 * ADDRESS_S) == 0
    for i in range(ADDRESSES_MAX):
        credentials.failed(f"10.1.0.{i}", 1)
    assert credentials.turn("10.0.0.1", 2) == 0, "the oldest is forgotten"


def test_a_key_logs_in_as_long_as_its_verifier_is_there() -> None:
    credentials = Credentials((), (NEW, OLD))
    assert credentials.upstream(0) == ()
    key = keys_of(b"old", OLD)
    assert key is not None
    assert credentials.proved(key) and not credentials.proved(key), "news once"
    assert credentials.upstream(0) == (key,)
    newer = keys_of(b"new", NEW)
    assert newer is not None and credentials.proved(newer)
    assert credentials.upstream(0) == (newer, key), "the newest first"
    after = Credentials((), (NEW,))
    after.take_over(credentials)
    assert after.upstream(0) == (newer,)
    after.replace((OLD,), None)
    assert after.upstream(0) == ()
    assert not after.proved(newer), "a login that began before the change proves nothing now"


def test_a_key_that_is_refused_is_dropped() -> None:
    credentials, key = Credentials((), (NEW,)), keys_of(b"new", NEW)
    assert key is not None
    credentials.proved(key)
    credentials.drop(key)
    assert credentials.upstream(0) == () and credentials.has_wrong_key
    credentials.proved(key)
    assert not credentials.has_wrong_key


def test_passwords_and_md5_hashes_need_no_key() -> None:
    assert Credentials(("a", "b"), (NEW,)).upstream(0) == ("a", "b")
    known = Md5Hash.from_password("bob", "secret")
    assert Credentials((), (known,)).upstream(0) == (known,)


def test_servers_are_kept_as_long_as_a_secret_is_common() -> None:
    assert Credentials(("b", "a")).is_akin(Credentials(("a",)))
    assert not Credentials(("b",)).is_akin(Credentials(("a",)))
    assert Credentials().is_akin(Credentials())
    assert Credentials(("a",), (), moment(1)).is_akin(Credentials(("a",)))
    assert not Credentials(("a",), (), moment(1)).is_same(Credentials(("a",)))


def test_a_clients_password_makes_the_keys_of_one_verifier() -> None:
    both = Verifier.from_passwords(["new", "old"], SALT, iterations=2)
    key = keys_of(b"old", both)
    assert key == ScramKeys(exchange(both, "old").client_key, Verifier.from_password("old", SALT, iterations=2))
    assert keys_of(b"neither", both) is None
    assert keys_of(b"\xff\xfe", both) is None, "no UTF-8 is no error"


def test_nothing_shows_a_secret() -> None:
    key = keys_of(b"new", NEW)
    user = User(name="bob", passwords=(SecretStr("hunter2"),))
    for thing in (NEW, key, Md5Hash.from_password("bob", "hunter2"), Credentials.of(user)):
        for secret in ("hunter2", NEW.stored_key.hex(), repr(NEW.stored_key), repr(NEW.salt), "digits"):
            assert secret not in repr(thing)
