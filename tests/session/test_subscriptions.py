"""Who listens on what, and what the server must be told for it."""

from hypothesis import given
from hypothesis import strategies as st

from pgweir_pooler.session.subscriptions import Subscriptions


def channels(text: str) -> frozenset[bytes]:
    return frozenset(bytes([x]) for x in text.encode())


def test_the_server_hears_of_a_channels_first_and_last_client_only() -> None:
    found: Subscriptions[str] = Subscriptions()
    assert found.replace("one", channels("ab")) == [(True, b"a"), (True, b"b")]
    assert found.replace("other", channels("bc")) == [(True, b"c")]
    assert found.on(b"b") == ("one", "other")
    assert found.replace("one", channels("c")) == [(False, b"a")]
    assert found.replace("other", frozenset()) == [(False, b"b")]
    assert found.of("one") == channels("c")
    assert found.of("other") == frozenset()
    assert list(found.clients) == ["one"]
    assert list(found.channels) == [b"c"]
    assert found.on(b"nobody's") == ()


@given(st.lists(st.tuples(st.integers(0, 4), st.frozensets(st.sampled_from([b"a", b"b", b"c", b"d"])))))
def test_both_directions_and_the_server_agree_after_any_history(history: list[tuple[int, frozenset[bytes]]]) -> None:
    found: Subscriptions[int] = Subscriptions()
    expected: dict[int, frozenset[bytes]] = {}
    server: set[bytes] = set()
    for client, wanted in history:
        expected[client] = wanted
        for is_wanted, channel in found.replace(client, wanted):
            assert (channel in server) != is_wanted, "no change twice"
            (server.add if is_wanted else server.remove)(channel)
        everything = frozenset[bytes]().union(*expected.values())
        assert server == set(found.channels) == everything
        assert set(found.clients) == {client for client, channels in expected.items() if channels}
        for channel in everything:
            assert set(found.on(channel)) == {client for client, channels in expected.items() if channel in channels}
