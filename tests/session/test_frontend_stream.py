"""What of a client's bytes is forwarded, booked, stopped or dropped, however they are cut.

What becomes of messages that name prepared statements is in test_client_statements.
"""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import messages
from pgweir_pooler.session.frontend_stream import FOR_REPLAY, FrontendStream, says_goodbye
from pgweir_pooler.session.pipeline import Pipeline
from pgweir_pooler.session.statements import StatementTable
from pgweir_pooler.session.suspicion import LOCKS, SETTINGS, TEMPORARY, UNTAGGED
from session.booked import letters
from wire.splits import cuts, fed_every_way

UNNAMED = messages.extended("select $1", [b"S\0\0\0\4X\0\0\0\4"])
NAMED = [
    messages.parse("select 1", "s1"),
    messages.bind(statement="s1"),
    messages.describe_statement("s1"),
    messages.close_statement("s1"),
]


def shared() -> FrontendStream:
    """A client's on shared servers."""
    return FrontendStream(StatementTable())


class Fed(NamedTuple):
    """What feeding some bytes came to."""

    forwarded: bytes
    owed: str
    has_terminated: bool = False
    error: str = ""


def feed(data: bytes, places: list[int], *, is_session: bool = False) -> Fed:
    """Feeds `data` while a server is held."""

    def fed(pieces: list[bytes]) -> Fed:
        stream, pipeline = FrontendStream(None) if is_session else shared(), Pipeline()
        out = b""
        for piece in pieces:
            out += stream.receive(piece, pipeline)
            assert stream.has_news is bool(stream.error or stream.has_terminated)
            if stream.error or stream.has_terminated:
                break  # the session is over
        error = stream.error.text if stream.error else ""
        return Fed(out, letters(pipeline), stream.has_terminated, error)

    return fed_every_way(fed, data, places)  # type: ignore[arg-type]  # a Sequence is fed as the list it is


@given(cuts)
def test_everything_without_a_statement_name_goes_through_unchanged(places: list[int]) -> None:
    data = (
        messages.query("select 1")
        + UNNAMED
        + messages.bind(portal="p1")
        + messages.execute("p1", 5)
        + messages.describe_portal("p1")
        + messages.close_portal("p1")
        + messages.describe_statement()
        + messages.close_statement()
        + messages.FLUSH
        + messages.copy_data(b"Q\0\0\0\4" * 20)
        + messages.COPY_DONE
        + messages.copy_fail("no")
        + messages.message(b"F", b"\0" * 14)
        + messages.SYNC
    )
    # A description of the unnamed statement, or of its portal, tells the client a shape: it is noted.
    assert feed(data, places) == Fed(data, "QPBvESBEvCtCcfFS")
    assert feed(data, places, is_session=True) == Fed(data, "QPBDESBEDCDCcfFS")


@given(cuts)
def test_session_mode_passes_statement_names(places: list[int]) -> None:
    data = b"".join(NAMED) + messages.bind() + messages.describe_statement() + messages.SYNC
    assert feed(data, places, is_session=True) == Fed(data, "PBDCBDS")


@given(cuts)
def test_what_a_server_skips_goes_as_it_is_and_owes_nothing(places: list[int]) -> None:
    data = b"".join(NAMED) + UNNAMED[:-5] + messages.query("discard all") + messages.SYNC

    def fed(pieces: list[bytes]) -> tuple[bytes, str, bool]:
        stream, pipeline = shared(), Pipeline()
        stream.receive(messages.execute("nowhere"), pipeline)
        pipeline.received(ord("E"))
        out = b"".join(stream.receive(piece, pipeline) for piece in pieces)
        return out, letters(pipeline), stream.all_asks() != 0

    assert fed_every_way(fed, data, places) == (data, "S", False)  # type: ignore[arg-type]


@given(cuts, st.text(alphabet="abcü", min_size=1, max_size=80))
def test_portal_names_of_any_length_are_read_over(places: list[int], portal: str) -> None:
    data = messages.parse("select 1") + messages.bind(portal=portal) + messages.SYNC
    assert feed(data, places) == Fed(data, "PBS")
    data = messages.bind(portal=portal, statement="x") + messages.SYNC
    assert feed(data, places).owed == "!S"


def test_a_portal_name_without_end_is_a_violation() -> None:
    stream, pipeline = shared(), Pipeline()
    assert stream.receive(b"B" + (100_000).to_bytes(4, "big") + b"p" * 20_000, pipeline) == b""
    assert stream.error is not None
    assert stream.has_news


@pytest.mark.parametrize("tag", [b"P", b"B", b"D", b"C"])
@given(places=cuts)
def test_a_message_without_its_names_goes_to_postgres_which_knows_what_to_say(tag: bytes, places: list[int]) -> None:
    data = messages.parse("select 1") + messages.message(tag) + messages.FLUSH + messages.SYNC
    assert feed(data, places) == Fed(data, f"P{tag.decode()}S")


@given(cuts)
def test_nothing_counts_behind_a_terminate(places: list[int]) -> None:
    data = messages.query("select 1") + messages.TERMINATE + messages.query("select 2")
    assert feed(data, places) == Fed(messages.query("select 1"), "Q", has_terminated=True)
    fed = feed(NAMED[0] + messages.TERMINATE + messages.SYNC, places)
    assert (fed.owed, fed.has_terminated) == ("xpw", True)


# --- what may be left behind


@pytest.mark.parametrize(
    ("data", "asks"),
    [
        (messages.query("select 1"), 0),
        (messages.query("select set_config('a', 'b', false)"), SETTINGS),
        (messages.query("select PG_Advisory_Lock(1)"), LOCKS),
        (messages.query("select set_config('a', 'b', false); select pg_advisory_lock(1)"), SETTINGS | LOCKS),
        (messages.extended("select 1 into temp t"), TEMPORARY),
        (messages.extended("select set_config($1, $2, $3)"), SETTINGS),
        (messages.parse("select pg_advisory_lock(1)", "s") + messages.SYNC, 0),  # not bound
        (messages.parse("select pg_advisory_lock(1)", "s") + messages.bind(statement="s") + messages.SYNC, LOCKS),
        (messages.query("select pg_advisory_lock(1)") + messages.query("select 1"), LOCKS),
    ],
)
@given(places=cuts)
def test_texts_raise_suspicions_for_the_loan(data: bytes, asks: int, places: list[int]) -> None:
    def fed(pieces: list[bytes]) -> int:
        stream, pipeline = shared(), Pipeline()
        for piece in pieces:
            stream.receive(piece, pipeline)
        found = stream.all_asks()
        stream.loan_ended()
        assert stream.all_asks() == 0
        return found

    assert fed_every_way(fed, data, places) == asks  # type: ignore[arg-type]


def test_texts_and_parameters_of_what_is_not_answered_are_kept() -> None:
    stream, pipeline = shared(), Pipeline()
    stream.receive(messages.query("select 'one'"), pipeline)
    stream.receive(messages.query("select 'two'") + messages.parse("select $1", "s"), pipeline)
    stream.receive(messages.bind([b"app.x"], statement="s"), pipeline)
    for part in (b"'one'", b"'two'", b"$1", b"app.x"):
        assert part in stream.statement_texts()
    stream, pipeline = shared(), Pipeline()
    for _ in range(50):
        stream.receive(messages.query("x" * 5_000) * 2, pipeline)
    assert len(stream.statement_texts()) <= 8_193


def test_a_whole_query_may_simply_go_only_while_nothing_is_to_be_remembered() -> None:
    stream, pipeline = shared(), Pipeline()
    assert stream.is_at_start
    for data, is_simple in (
        (messages.query("select 1"), True),
        (messages.query("select pg_advisory_lock(1)"), False),
        (messages.extended("select 1"), False),
        (messages.parse("select 1", "s"), False),
    ):
        stream = shared()
        stream.receive(data, pipeline)
        assert stream.is_at_start is is_simple
    stream.loan_ended()
    assert not stream.is_at_start  # it has a name
    stream = shared()
    stream.replay_wanted(is_wanted=True)
    assert not stream.is_at_start
    stream.replay_wanted(is_wanted=False)
    assert stream.is_at_start


# --- stops


@pytest.mark.parametrize(
    ("data", "stops"),
    [
        (messages.query("execute p"), True),
        (messages.query("DEALLOCATE p"), True),
        (messages.query("select 1; discard all"), True),
        (messages.parse("execute p"), True),
        (messages.parse("execute p", "s"), True),
        (messages.query("select unexecute from t"), False),
        (messages.parse("select 1"), False),
    ],
)
@given(places=cuts)
def test_it_stops_in_front_of_a_text_that_may_name_what_the_server_lacks(
    data: bytes, stops: bool, places: list[int]
) -> None:
    before, behind = messages.query("select 1"), messages.SYNC + messages.query("select 2")
    for wanted in (True, False):

        def fed(pieces: list[bytes], wanted: bool = wanted) -> tuple[bytes, int]:
            stream, pipeline = shared(), Pipeline()
            stream.replay_wanted(is_wanted=wanted)
            out, rest = b"", b""
            for piece in pieces:
                if stream.stop:
                    rest += piece
                else:
                    out += stream.receive(piece, pipeline)
            stopped = (stream.stopped + rest) if stream.stop else b""
            # In front of it, or at the beginning of the pipeline when it has come by then.
            assert out in (b"", before) or not (wanted and stops)
            return out + stopped, stream.stop

        out, stop = fed_every_way(fed, before + data + behind, places)  # type: ignore[arg-type]
        assert stop == (FOR_REPLAY if wanted and stops else 0)
        assert out.startswith(before)
        assert out.endswith(behind)


def test_it_goes_on_once_the_server_has_what_is_named() -> None:
    stream, pipeline = shared(), Pipeline()
    stream.replay_wanted(is_wanted=True)
    data = messages.query("execute p") + messages.query("execute q")
    assert stream.receive(data, pipeline) == b""
    assert stream.has_news
    stream.replayed()
    assert stream.take_stopped() == data
    assert stream.stop == 0
    assert stream.receive(data, pipeline) == data
    behind = messages.query("execute r")
    assert stream.receive(behind, pipeline) == behind  # there is no room for a replay
    pipeline.owed.clear()
    assert stream.receive(data, pipeline) == b""  # it may name something else
    stream.replayed()
    assert stream.receive(stream.take_stopped(), pipeline) == data
    stream.loan_ended()  # the next server may not have it
    assert stream.receive(data, pipeline) == b""


# --- lengths


@pytest.mark.parametrize(
    "bad",
    [
        messages.message(b"p", b"secret\0"),
        messages.message(b"?"),
        b"\x16\x03\x01\x02\x00\x01",
        b"Q\0\0\0\3",
        b"Q\x3f\xff\xff\xff",
        b"S\0\0\x27\x11",
        b"X\0\0\0\0",
        b"E\xff\xff\xff\xff",
    ],
)
@given(places=cuts)
def test_what_postgres_does_not_take_is_a_violation(bad: bytes, places: list[int]) -> None:
    good = messages.query("select 1")
    fed = feed(good + bad + good, places)
    assert (fed.forwarded, fed.owed, fed.has_terminated) == (good, "Q", False)
    assert fed.error.startswith("invalid")
    assert "secret" not in fed.error
    fed = feed(NAMED[0] + bad + messages.SYNC, places)
    assert (fed.owed, fed.has_terminated) == ("xpw", False)
    assert fed.error.startswith("invalid")


@pytest.mark.parametrize("good", [b"Q\x3f\xff\xff\xfe", b"S\0\0\x27\x10", b"d\x3f\xff\xff\xfe", b"S\0\0\0\4"])
def test_the_largest_and_smallest_lengths_that_postgres_takes(good: bytes) -> None:
    stream, pipeline = shared(), Pipeline()
    assert stream.receive(good, pipeline) == good
    assert stream.error is None
    assert stream.is_mid_message is (good != messages.SYNC)


def test_mid_message_means_that_the_server_got_a_part() -> None:
    data = messages.query("select 1")
    for place in range(len(data) + 1):
        stream, pipeline = FrontendStream(None), Pipeline()
        out = stream.receive(data[:place], pipeline)
        assert out == (data[:place] if place >= 5 else b"")
        assert stream.is_mid_message is (0 < len(out) < len(data))
        # On a shared server a text must be searched, so it goes whole or not at all.
        stream = shared()
        assert stream.receive(data[:place], pipeline) == (data if place == len(data) else b"")
        assert not stream.is_mid_message


def test_a_text_too_long_to_be_held_flows_and_is_suspected_of_anything() -> None:
    stream, pipeline = shared(), Pipeline()
    data = messages.query("select '" + "x" * 2_000_000 + "'")
    assert b"".join(stream.receive(data[i : i + 65_536], pipeline) for i in range(0, len(data), 65_536)) == data
    assert letters(pipeline) == "Q"
    assert stream.all_asks() == UNTAGGED
    assert stream.is_text_cut
    stream, pipeline = shared(), Pipeline()
    stream.replay_wanted(is_wanted=True)
    stream.receive(data[:100], pipeline)
    assert stream.stop == FOR_REPLAY


@pytest.mark.parametrize("size", [9_000, 2_000_000])
def test_of_a_long_text_both_ends_are_kept(size: int) -> None:
    for data in (messages.query(f"set app.x = '{'x' * size}'"), messages.parse(f"set app.x = '{'x' * size}'", "s")):
        for step in (4_000, 65_536, len(data)):
            stream, pipeline = shared(), Pipeline()
            for at in range(0, len(data), step):
                stream.receive(data[at : at + step], pipeline)
            assert stream.is_text_cut
            assert b"set app.x = 'x" in stream.statement_texts()
        pipeline.owed.clear()
        pipeline.is_unsynced = False
        stream.receive(messages.query("select 1"), pipeline)
        assert not stream.is_text_cut


def test_a_large_body_flows_without_being_kept() -> None:
    stream, pipeline = shared(), Pipeline()
    piece = bytes(65_536)
    assert stream.receive(b"d" + (4 + 64 * len(piece)).to_bytes(4, "big"), pipeline)
    for _ in range(64):
        assert stream.is_mid_message
        assert stream.receive(piece, pipeline) is piece
    assert not stream.is_mid_message
    assert stream.receive(messages.SYNC, pipeline) == messages.SYNC


def test_a_goodbye_is_a_message_and_not_bytes() -> None:
    assert says_goodbye(messages.query("select 1") + messages.TERMINATE)
    assert says_goodbye(UNNAMED + messages.TERMINATE + b"rest")
    assert not says_goodbye(messages.query("select 1"))
    assert not says_goodbye(messages.message(b"Q", messages.TERMINATE + b"rest"))
    assert not says_goodbye(messages.message(b"Q", messages.TERMINATE + b"rest")[:-4])
    assert not says_goodbye(b"Q\0\0\0\3" + messages.TERMINATE)
    assert not says_goodbye(b"")


# --- without a server


def skim(data: bytes, places: list[int]) -> tuple[bytes, bool, str]:
    """What needs a server, all bytes behind the first such message included; terminated; the error's text."""

    def fed(pieces: list[bytes]) -> tuple[bytes, bool, str]:
        stream = shared()
        work = b""
        for piece in pieces:
            work = work + piece if work else stream.skim(piece)
            if stream.has_terminated or stream.error:
                break
        return work, stream.has_terminated, stream.error.text if stream.error else ""

    return fed_every_way(fed, data, places)  # type: ignore[arg-type]  # a Sequence is fed as the list it is


IGNORED = messages.copy_data(b"Q\0\0\0\4" * 9) + messages.COPY_DONE + messages.copy_fail("x" * 50) + messages.FLUSH


@given(cuts)
def test_what_means_nothing_without_a_copy_is_dropped(places: list[int]) -> None:
    assert skim(IGNORED, places) == (b"", False, "")
    assert skim(IGNORED + UNNAMED + IGNORED, places) == (UNNAMED + IGNORED, False, "")
    assert skim(IGNORED + messages.TERMINATE + UNNAMED, places) == (b"", True, "")


@given(cuts)
def test_skimming_goes_on_in_the_middle_of_a_message_that_was_forwarded_with_the_server(places: list[int]) -> None:
    def fed(pieces: list[bytes]) -> bytes:
        stream = shared()
        stream.receive(b"d\0\0\0\x10", Pipeline())
        work = b""
        for piece in pieces:
            work = work + piece if work else stream.skim(piece)
        return work

    assert fed_every_way(fed, b"Q" * 12 + UNNAMED, places) == UNNAMED  # type: ignore[arg-type]


@given(cuts)
def test_bad_lengths_are_seen_while_skimming(places: list[int]) -> None:
    for bad in (b"d\0\0\0\3", b"H\0\0\x27\x11", b"c\xff\xff\xff\xff"):
        work, has_terminated, error = skim(IGNORED + bad + UNNAMED, places)
        assert (work, has_terminated) == (b"", False)
        assert error.startswith("invalid message length")
