"""What of a client's bytes is forwarded, booked, refused or dropped, however they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import messages
from harness.messages import error_fields
from pgweir_pooler.session.frontend_stream import FrontendStream
from pgweir_pooler.session.pipeline import REFUSAL, Pipeline
from wire.splits import cuts, fed_every_way

UNNAMED = messages.extended("select $1", [b"S\0\0\0\4X\0\0\0\4"])
BAD_PARSE = messages.parse("select 1", "s1")
BAD_BIND = messages.bind(statement="s1")
BAD_DESCRIBE = messages.describe_statement("s1")
BAD_CLOSE = messages.close_statement("s1")
REFUSED_MESSAGES = [BAD_PARSE, BAD_BIND, BAD_DESCRIBE, BAD_CLOSE]


def letters(pipeline: Pipeline) -> str:
    """What is owed, one letter each, `!` for a refusal."""
    return "".join("!" if tag == REFUSAL else chr(tag) for tag in pipeline.owed)


def feed(data: bytes, places: list[int], *, keeps_names: bool = False) -> tuple[bytes, str, bytes, bool, str]:
    """Forwarded bytes, what is owed, reply, whether the client terminated, and the error's text."""

    def fed(pieces: list[bytes]) -> tuple[bytes, str, bytes, bool, str]:
        stream, pipeline = FrontendStream(keeps_names=keeps_names), Pipeline()
        out, reply = b"", b""
        for piece in pieces:
            out += stream.receive(piece, pipeline)
            reply += stream.reply
            stream.reply = b""
            assert stream.has_news is bool(reply or stream.error or stream.has_terminated)
            if stream.error or stream.has_terminated:
                break  # the session is over
        return out, letters(pipeline), reply, stream.has_terminated, stream.error.text if stream.error else ""

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
    assert feed(data, places) == (data, "QPBDESBEDCDCcfFS", b"", False, "")
    assert feed(data, places, keeps_names=True) == (data, "QPBDESBEDCDCcfFS", b"", False, "")


@given(cuts)
def test_session_mode_passes_statement_names(places: list[int]) -> None:
    data = b"".join(REFUSED_MESSAGES) + messages.SYNC
    assert feed(data, places, keeps_names=True) == (data, "PBDCS", b"", False, "")


@pytest.mark.parametrize("refused", REFUSED_MESSAGES)
@given(places=cuts)
def test_a_named_statement_is_refused_and_all_up_to_the_sync_dropped(refused: bytes, places: list[int]) -> None:
    data = (
        refused + messages.execute() + messages.query("select 1") + BAD_CLOSE + messages.FLUSH + UNNAMED[-5:] + UNNAMED
    )
    out, owed, reply, has_terminated, error = feed(data, places)
    assert (out, owed, has_terminated, error) == (messages.SYNC + UNNAMED, "SPBDES", False, "")
    fields = error_fields(reply[5:])
    assert (fields["S"], fields["C"]) == ("ERROR", "0A000")
    assert "session-mode port" in fields["H"]


@given(cuts)
def test_a_refusal_waits_for_the_replies_before_it(places: list[int]) -> None:
    data = messages.parse("select 1") + BAD_BIND + messages.execute() + messages.SYNC
    out, owed, reply, _, _ = feed(data, places)
    # The Flush makes the server answer the Parse now: a client may wait for the error before it sends the Sync.
    assert out == messages.parse("select 1") + messages.FLUSH + messages.SYNC
    assert (owed, reply) == ("P!S", b"")


def test_a_refusal_without_a_sync_is_flushed_out() -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    assert stream.receive(messages.parse("select 1") + BAD_PARSE, pipeline).endswith(messages.FLUSH)
    assert stream.receive(messages.execute() + messages.FLUSH, pipeline) == b""
    pipeline.received(ord("1"))
    assert error_fields(pipeline.refusal_due()[5:])["C"] == "0A000"


def test_thousands_of_refusals_in_one_read() -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    out = stream.receive((BAD_PARSE + messages.SYNC) * 5_000, pipeline)
    assert out.replace(messages.FLUSH, b"") == messages.SYNC * 5_000
    assert letters(pipeline) == "S" + "!S" * 4_999
    assert stream.reply
    assert len(pipeline.refusals) == 4_999


@given(cuts, st.text(alphabet="abcü", min_size=1, max_size=80))
def test_portal_names_of_any_length_are_read_over(places: list[int], portal: str) -> None:
    data = messages.bind(portal=portal) + messages.SYNC
    assert feed(data, places) == (data, "BS", b"", False, "")
    out, owed, reply, _, _ = feed(messages.bind(portal=portal, statement="x") + messages.SYNC, places)
    assert (out, owed) == (messages.SYNC, "S")
    assert reply


def test_a_portal_name_without_end_is_a_violation() -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    assert stream.receive(b"B" + (100_000).to_bytes(4, "big") + b"p" * 20_000, pipeline) == b""
    assert stream.error is not None
    assert stream.has_news


@pytest.mark.parametrize("tag", [b"P", b"B", b"D", b"C"])
@given(places=cuts)
def test_a_message_without_its_names_goes_to_postgres_which_knows_what_to_say(tag: bytes, places: list[int]) -> None:
    data = messages.message(tag) + messages.SYNC
    assert feed(data, places) == (data, tag.decode() + "S", b"", False, "")


@given(cuts)
def test_nothing_counts_behind_a_terminate(places: list[int]) -> None:
    data = messages.query("select 1") + messages.TERMINATE + messages.query("select 2")
    assert feed(data, places) == (messages.query("select 1"), "Q", b"", True, "")
    out, owed, reply, has_terminated, _ = feed(BAD_PARSE + messages.TERMINATE + messages.SYNC, places)
    assert (out, owed, has_terminated) == (b"", "", True)
    assert reply


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
    out, owed, _, has_terminated, error = feed(good + bad + good, places)
    assert (out, owed, has_terminated) == (good, "Q", False)
    assert error.startswith("invalid")
    assert "secret" not in error
    out, owed, _, _, error = feed(BAD_PARSE + bad + messages.SYNC, places)
    if bad[:1] != b"X":  # a session that is being refused may end by any Terminate
        assert (out, owed) == (b"", "")
        assert error.startswith("invalid")


@pytest.mark.parametrize("good", [b"Q\x3f\xff\xff\xfe", b"S\0\0\x27\x10", b"d\x3f\xff\xff\xfe", b"S\0\0\0\4"])
def test_the_largest_and_smallest_lengths_that_postgres_takes(good: bytes) -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    assert stream.receive(good, pipeline) == good
    assert stream.error is None
    assert stream.is_mid_message is (good != messages.SYNC)


def test_mid_message_means_that_the_server_got_a_part() -> None:
    data = messages.query("select 1")
    for place in range(len(data) + 1):
        stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
        out = stream.receive(data[:place], pipeline)
        assert out == (data[:place] if place >= 5 else b"")
        assert stream.is_mid_message is (0 < len(out) < len(data))


def test_a_large_body_flows_without_being_kept() -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    piece = bytes(65_536)
    assert stream.receive(b"d" + (4 + 64 * len(piece)).to_bytes(4, "big"), pipeline)
    for _ in range(64):
        assert stream.is_mid_message
        assert stream.receive(piece, pipeline) is piece
    assert not stream.is_mid_message
    assert stream.receive(messages.SYNC, pipeline) == messages.SYNC


# --- without a server


def skim(data: bytes, places: list[int]) -> tuple[bytes, bool, str]:
    """What needs a server, all bytes behind the first such message included; terminated; the error's text."""

    def fed(pieces: list[bytes]) -> tuple[bytes, bool, str]:
        stream = FrontendStream(keeps_names=False)
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
        stream = FrontendStream(keeps_names=False)
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
