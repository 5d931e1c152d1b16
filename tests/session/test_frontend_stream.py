"""What of a client's bytes is forwarded, booked, refused or dropped, however they are cut."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import messages
from harness.messages import error_fields
from pgweir_pooler.session.frontend_stream import FrontendStream, says_goodbye
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


# What PostgreSQL gets in place of a refused message.
REJECTED = messages.bind(statement="pgweir: refused")


class Fed(NamedTuple):
    """What feeding some bytes came to."""

    forwarded: bytes
    owed: str
    refusals: tuple[str, ...] = ()  # their SQLSTATEs
    has_terminated: bool = False
    error: str = ""
    awaits_execute: bool = False


def feed(data: bytes, places: list[int], *, keeps_names: bool = False) -> Fed:
    """Feeds `data` while a server is held."""

    def fed(pieces: list[bytes]) -> Fed:
        stream, pipeline = FrontendStream(keeps_names=keeps_names), Pipeline()
        out = b""
        for piece in pieces:
            out += stream.receive(piece, pipeline)
            assert stream.has_news is bool(stream.error or stream.has_terminated)
            if stream.error or stream.has_terminated:
                break  # the session is over
        refusals = tuple(error_fields(refusal[5:])["C"] for refusal in pipeline.refusals)
        error = stream.error.text if stream.error else ""
        return Fed(out, letters(pipeline), refusals, stream.has_terminated, error, stream.awaits_execute)

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
    assert feed(data, places) == Fed(data, "QPBDESBEDCDCcfFS")
    assert feed(data, places, keeps_names=True) == Fed(data, "QPBDESBEDCDCcfFS")


@given(cuts)
def test_session_mode_passes_statement_names(places: list[int]) -> None:
    data = b"".join(REFUSED_MESSAGES) + messages.bind() + messages.describe_statement() + messages.SYNC
    assert feed(data, places, keeps_names=True) == Fed(data, "PBDCBDS")


@pytest.mark.parametrize("refused", REFUSED_MESSAGES)
@given(places=cuts)
def test_a_named_statement_is_replaced_by_what_postgres_rejects(refused: bytes, places: list[int]) -> None:
    before, behind = messages.parse("select 1") + messages.bind(), messages.execute() + messages.SYNC + UNNAMED
    fed = feed(before + refused + behind, places)
    assert fed == Fed(before + REJECTED + behind, "PB!ESPBDES", ("0A000",))
    assert feed(refused, places) == Fed(REJECTED, "!", ("0A000",))
    fed = feed(refused * 3 + messages.SYNC, places)
    assert fed == Fed(REJECTED * 3 + messages.SYNC, "!!!S", ("0A000",) * 3)


def test_a_refusal_names_the_way_out() -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    stream.receive(BAD_PARSE, pipeline)
    fields = error_fields(pipeline.refusals[0][5:])
    assert fields["S"] == "ERROR"
    assert "session-mode port" in fields["H"]


@pytest.mark.parametrize("refused", [messages.bind(), messages.describe_statement()])
@given(places=cuts)
def test_an_unnamed_statement_of_somebody_else_is_not_found(refused: bytes, places: list[int]) -> None:
    data = refused + messages.execute() + messages.SYNC
    assert feed(data, places) == Fed(REJECTED + data[len(refused) :], "!ES", ("26000",))
    for before, owed in (
        (messages.query("select 1"), "Q"),  # PostgreSQL forgets the unnamed statement at a Query
        (messages.parse("select 1") + messages.query("select 1"), "PQ"),
        (messages.parse("select 1") + messages.close_statement() + messages.SYNC, "PCS"),
    ):
        fed = feed(before + data, places)
        assert fed == Fed(before + REJECTED + data[len(refused) :], owed + "!ES", ("26000",))


@pytest.mark.parametrize(
    ("before", "is_certain"),
    [
        (b"", True),
        (messages.SYNC, True),
        (messages.query("begin"), True),
        (messages.extended("select 1"), True),
        (messages.execute("nowhere"), False),
        (messages.execute("nowhere") + messages.query("begin"), False),  # skipped, too
        (messages.query("select 1") * 2, False),  # certain, but the first one might be of the kind above
        (BAD_PARSE, False),
    ],
)
@given(places=cuts)
def test_a_parse_that_may_be_skipped_counts_up_to_its_sync_only(
    before: bytes, is_certain: bool, places: list[int]
) -> None:
    parsed = before + messages.parse("select 1") + messages.bind() + messages.SYNC
    behind = messages.execute() + messages.SYNC
    expected = messages.bind() if is_certain else REJECTED
    fed = feed(parsed + messages.bind() + behind, places)
    assert fed.forwarded.replace(BAD_PARSE, REJECTED) == parsed.replace(BAD_PARSE, REJECTED) + expected + behind


def test_a_parse_that_is_skipped_counts_up_to_its_sync_only() -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    stream.receive(messages.execute("nowhere"), pipeline)
    pipeline.received(ord("E"))
    data = messages.parse("select 1") + messages.bind() + messages.SYNC
    assert stream.receive(data + messages.bind(), pipeline) == data + REJECTED


def test_the_unnamed_statement_ends_with_the_loan() -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    stream.receive(UNNAMED, pipeline)
    assert stream.receive(messages.describe_statement(), pipeline) == messages.describe_statement()
    assert not stream.is_at_start
    stream.loan_ended()
    assert stream.is_at_start
    assert stream.receive(messages.bind(), Pipeline()) == REJECTED


@pytest.mark.parametrize(
    ("end", "awaits"),
    [
        (b"", True),
        (messages.describe_statement(), True),
        (messages.bind(), True),
        (messages.bind() + messages.describe_portal(), True),
        (messages.close_portal(), True),
        (messages.bind() + messages.execute(), False),
        (messages.query("select 2"), False),
        (messages.close_statement(), False),
        (messages.bind() + messages.execute() + messages.parse("select 2"), True),
    ],
)
@given(places=cuts)
def test_a_parsed_statement_waits_to_be_executed(end: bytes, awaits: bool, places: list[int]) -> None:
    parsed = messages.parse("select 1") + messages.SYNC
    assert feed(parsed + end, places).awaits_execute is awaits
    assert feed(parsed + end + messages.SYNC, places).awaits_execute is awaits
    assert not feed(parsed + end, places, keeps_names=True).awaits_execute


@pytest.mark.parametrize("name", ["Parse", "Bind"])
def test_a_large_refused_message_is_not_forwarded_and_not_kept(name: str) -> None:
    large = messages.parse("x" * 300_000, "s1") if name == "Parse" else messages.bind([b"x" * 300_000], statement="s1")
    for size in (7, 4096, 65_536, len(large)):
        stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
        data = large + messages.SYNC + UNNAMED
        out = b""
        for at in range(0, len(data), size):
            out += stream.receive(data[at : at + size], pipeline)
            assert len(stream.held) < 20
        assert out == REJECTED + messages.SYNC + UNNAMED
        assert letters(pipeline) == "!SPBDES"


def test_thousands_of_refusals_in_one_read() -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    assert stream.receive((BAD_PARSE + messages.SYNC) * 5_000, pipeline) == (REJECTED + messages.SYNC) * 5_000
    assert letters(pipeline) == "!S" * 5_000
    assert len(pipeline.refusals) == 5_000


@given(cuts, st.text(alphabet="abcü", min_size=1, max_size=80))
def test_portal_names_of_any_length_are_read_over(places: list[int], portal: str) -> None:
    parsed = messages.parse("select 1")
    data = parsed + messages.bind(portal=portal) + messages.SYNC
    assert feed(data, places) == Fed(data, "PBS", awaits_execute=True)
    fed = feed(messages.bind(portal=portal, statement="x") + messages.SYNC, places)
    assert fed == Fed(REJECTED + messages.SYNC, "!S", ("0A000",))


def test_a_portal_name_without_end_is_a_violation() -> None:
    stream, pipeline = FrontendStream(keeps_names=False), Pipeline()
    assert stream.receive(b"B" + (100_000).to_bytes(4, "big") + b"p" * 20_000, pipeline) == b""
    assert stream.error is not None
    assert stream.has_news


@pytest.mark.parametrize("tag", [b"P", b"B", b"D", b"C"])
@given(places=cuts)
def test_a_message_without_its_names_goes_to_postgres_which_knows_what_to_say(tag: bytes, places: list[int]) -> None:
    data = messages.parse("select 1") + messages.message(tag) + messages.FLUSH + messages.SYNC
    assert feed(data, places) == Fed(data, f"P{tag.decode()}S", awaits_execute=True)


@given(cuts)
def test_nothing_counts_behind_a_terminate(places: list[int]) -> None:
    data = messages.query("select 1") + messages.TERMINATE + messages.query("select 2")
    assert feed(data, places) == Fed(messages.query("select 1"), "Q", has_terminated=True)
    data = BAD_PARSE + messages.TERMINATE + messages.SYNC
    assert feed(data, places) == Fed(REJECTED, "!", ("0A000",), has_terminated=True)


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
    fed = feed(BAD_PARSE + bad + messages.SYNC, places)
    assert (fed.forwarded, fed.owed, fed.has_terminated) == (REJECTED, "!", False)
    assert fed.error.startswith("invalid")


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
