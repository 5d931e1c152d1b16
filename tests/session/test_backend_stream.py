"""What of a server's bytes reaches the client, and what the stream says about the server, however they are cut."""

import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given

from harness.messages import message
from pgweir_pooler.session.backend_stream import BackendStream
from pgweir_pooler.session.pipeline import OWN_CLOSE, OWN_DESCRIBE, OWN_PARSE, REFUSAL
from pgweir_pooler.session.statement_notes import Note
from pgweir_pooler.session.suspicion import ASKS_BY_TAG, SETTINGS, TEMPORARY
from pgweir_pooler.wire.cursor import ServerProtocolError
from wire.splits import cuts, fed_every_way

READY = message(b"Z", b"I")
IN_BLOCK = message(b"Z", b"T")
COLUMNS = message(b"T", b"\0\1n\0" + b"\0" * 18)
NOTICE = message(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mhear\0\0")
NOTIFICATION = message(b"A", b"\0\0\0\1channel\0secret\0")
ERROR = message(b"E", b"SERROR\0VERROR\0C22012\0Mdivision by zero\0\0")
FATAL = message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0")


def done(tag: str) -> bytes:
    return message(b"C", tag.encode() + b"\0")


def row(value: bytes) -> bytes:
    return message(b"D", b"\0\1" + len(value).to_bytes(4, "big") + value)


def status(name: bytes, value: bytes) -> bytes:
    return message(b"S", name + b"\0" + value + b"\0")


class Seen(NamedTuple):
    """Everything that one reading of some bytes came to."""

    forwarded: bytes
    freed_at: int  # how many bytes had been read when the server became free, -1: never
    rest: bytes
    asks: int
    errors: int
    readies: int
    transactions: int
    is_confused: bool
    owed: str
    parameters: dict[bytes, bytes]
    last_error: str


def read(data: bytes, places: list[int], sent: str = "Q", *, is_session_owned: bool = False) -> Seen:
    """Reads `data` as the answer to the messages `sent` (`!` is a refusal of ours); stops where the server is free."""

    def fed(pieces: list[bytes]) -> Seen:
        stream = BackendStream({})
        stream.is_session_owned = is_session_owned
        for letter in sent:
            if letter == "!":
                stream.pipeline.refuse(b"<refused>")
            else:
                stream.pipeline.sent(ord(letter))
        forwarded, freed_at, at = b"", -1, 0
        rest = b""
        for piece in pieces:
            if freed_at >= 0:
                rest += piece  # belongs to nobody; ServerConnection feeds it once the client is gone
                continue
            forwarded += stream.receive(piece)
            at += len(piece)
            if stream.is_free:
                rest = stream.rest
                freed_at = at - len(rest)
        owed = "".join("!" if tag == REFUSAL else chr(tag) for tag in stream.pipeline.owed)
        return Seen(
            forwarded,
            freed_at,
            rest,
            stream.asks,
            stream.errors,
            stream.ready_count,
            stream.transaction_count,
            stream.pipeline.is_confused,
            owed,
            stream.parameters,
            stream.last_error.get("C", ""),
        )

    return fed_every_way(fed, data, places)  # type: ignore[arg-type]  # a Sequence is fed as the list it is


@given(cuts)
def test_a_simple_query_goes_through_and_frees(places: list[int]) -> None:
    data = NOTICE + COLUMNS + row(b"1") + row(b"2") + done("SELECT 2") + READY
    seen = read(data, places)
    assert seen == Seen(data, len(data), b"", 0, 0, 1, 1, False, "", {}, "")


@given(cuts)
def test_rows_that_look_like_a_ready_for_query_do_not_free(places: list[int]) -> None:
    for sent, start in (("Q", COLUMNS), ("E", b"")):
        data = start + row(READY) + row(READY * 7 + READY[:-1]) + message(b"d", READY * 3)
        seen = read(data, places, sent)
        assert (seen.forwarded, seen.freed_at, seen.readies, seen.is_confused) == (data, -1, 0, False)


@given(cuts)
def test_what_follows_the_freeing_ready_for_query_is_nobodys(places: list[int]) -> None:
    answer = COLUMNS + row(b"1") + done("SELECT 1") + READY
    for behind in (NOTICE, FATAL, NOTIFICATION, status(b"a", b"b"), NOTICE[:9]):
        seen = read(answer + behind, places)
        assert (seen.forwarded, seen.freed_at, seen.rest) == (answer, len(answer), behind)
        assert (seen.errors, seen.parameters) == (0, {})


@given(cuts)
def test_only_the_last_of_several_ready_for_query_frees(places: list[int]) -> None:
    data = (
        COLUMNS
        + done("SELECT 1")
        + READY
        + done("BEGIN")
        + IN_BLOCK
        + ERROR
        + message(b"Z", b"E")
        + done("ROLLBACK")
        + READY
    )
    seen = read(data, places, "QQQQ")
    assert seen == Seen(data, len(data), b"", 0, 1, 4, 2, False, "", {}, "22012")
    seen = read(data, places, "QQQQS")
    assert (seen.freed_at, seen.owed) == (-1, "S")


@given(cuts)
def test_an_extended_pipeline(places: list[int]) -> None:
    data = b"".join(message(tag) for tag in (b"1", b"2")) + COLUMNS + row(b"1") + message(b"s") + READY
    data += message(b"1") + message(b"t", b"\0\0") + message(b"n") + READY
    seen = read(data, places, "PBDESPDS")
    assert seen == Seen(data, len(data), b"", 0, 0, 2, 2, False, "", {}, "")


@given(cuts)
def test_parameters_are_kept_and_asked_about(places: list[int]) -> None:
    data = status(b"TimeZone", b"UTC") + status(b"search_path", b"") + COLUMNS + done("SELECT 1") + READY
    seen = read(data, places)
    assert seen.forwarded == data
    assert seen.asks == SETTINGS
    assert seen.parameters == {b"TimeZone": b"UTC", b"search_path": b""}


_HARMLESS = ("INSERT 0 1", "BEGIN", "COMMIT", "SETTLE", "", "COPY 5", "CREATE INDEX")


@pytest.mark.parametrize("sent", ["Q", "E"])
@pytest.mark.parametrize("tag", [*(tag[:-1].decode() for tag in ASKS_BY_TAG), *_HARMLESS])
@given(places=cuts)
def test_command_tags_raise_their_suspicions(sent: str, tag: str, places: list[int]) -> None:
    data = done(tag) + message(b"Z", b"T")
    seen = read(data, places, sent + "S" * (sent == "E"))
    asks = ASKS_BY_TAG.get(tag.encode() + b"\0", 0)
    assert (seen.forwarded, seen.asks, seen.is_confused) == (data, asks, False)
    assert (asks == 0) is (tag in _HARMLESS)


@given(cuts)
def test_suspicions_add_up(places: list[int]) -> None:
    data = done("SET") + COLUMNS + row(b"1") + done("SELECT 1") + done("LOAD") + READY
    seen = read(data, places)
    assert seen.asks == ASKS_BY_TAG[b"SET\0"] | ASKS_BY_TAG[b"LOAD\0"]
    assert (seen.forwarded, seen.freed_at) == (data, len(data))


@pytest.mark.parametrize(("sent", "asks"), [("Q", TEMPORARY), ("ES", 0)])
@given(places=cuts)
def test_a_select_without_columns_has_made_a_table(sent: str, asks: int, places: list[int]) -> None:
    """Of an Execute that cannot be told: there the text is searched."""
    assert read(done("SELECT 1") + READY, places, sent).asks == asks
    assert read(done("SELECT 1") + COLUMNS + done("SELECT 0") + READY, places).asks == TEMPORARY
    assert read(COLUMNS + done("SELECT 0") + READY, places).asks == 0
    for before, its_answer in (
        ("Q", COLUMNS + row(b"1") + ERROR + READY),
        ("ES", row(b"1") + done("SELECT 1") + READY),
    ):
        assert read(its_answer + done("SELECT 1") + READY, places, before + "Q").asks == TEMPORARY


@given(cuts)
def test_a_statement_whose_shape_has_changed_is_noticed(places: list[int]) -> None:
    for code, routine, expected in (
        ("0A000", "RevalidateCachedQuery", True),
        ("0A000", "transformInsertStmt", False),
        ("26000", "RevalidateCachedQuery", False),
    ):
        error = message(b"E", f"SERROR\0C{code}\0Mno\0R{routine}\0\0".encode())

        def fed(pieces: list[bytes], data: bytes = error + READY) -> bool:
            stream = BackendStream({})
            for letter in "BES":
                stream.pipeline.sent(ord(letter))
            assert b"".join(stream.receive(piece) for piece in pieces) == data
            return stream.plan_changed

        assert fed_every_way(fed, error + READY, places) is expected  # type: ignore[arg-type]


@given(cuts)
def test_replies_to_our_own_messages_are_kept_from_the_client(places: list[int]) -> None:
    parameters, columns = message(b"t", b"\0\0"), message(b"T", b"\0\1" + b"long" * 60 + b"\0" * 19)
    data = message(b"3") + message(b"1") + NOTICE + parameters + status(b"a", b"b") + columns
    data += message(b"2") + row(b"1") + done("SELECT 1") + READY

    def fed(pieces: list[bytes]) -> tuple[bytes, list[tuple[str, bytes]]]:
        heard: list[tuple[str, bytes]] = []

        class Reads(Note):
            def described(self, tag: int, body: bytes) -> None:
                heard.append((chr(tag), body))

        stream = BackendStream({})
        for entry in (OWN_CLOSE, OWN_PARSE, OWN_DESCRIBE):
            stream.pipeline.expect(entry, Reads())
        for letter in "BES":
            stream.pipeline.sent(ord(letter))
        out = b"".join(stream.receive(piece) for piece in pieces)
        assert stream.is_free
        return out, heard

    forwarded, heard = fed_every_way(fed, data, places)  # type: ignore[arg-type]
    assert forwarded == NOTICE + status(b"a", b"b") + message(b"2") + row(b"1") + done("SELECT 1") + READY
    assert heard == [("t", parameters[5:]), ("T", columns[5:])]


@given(cuts)
def test_notifications_reach_only_a_session_that_owns_its_server(places: list[int]) -> None:
    parts = [
        NOTIFICATION,
        COLUMNS,
        NOTIFICATION,
        row(NOTIFICATION),
        NOTIFICATION,
        NOTIFICATION,
        done("SELECT 1"),
        READY,
    ]
    data = b"".join(parts)
    assert read(data, places, is_session_owned=True).forwarded == data
    seen = read(data, places)
    assert seen.forwarded == b"".join(part for part in parts if part != NOTIFICATION)
    assert seen.freed_at == len(data)


UNKNOWN = message(b"E", b'SERROR\0VERROR\0C26000\0Mprepared statement "pgweir: refused" does not exist\0\0')


@given(cuts)
def test_the_error_to_a_refused_message_is_replaced_by_ours(places: list[int]) -> None:
    wide = message(b"T", b"x" * 300)
    data = message(b"1") + NOTICE + wide + UNKNOWN + READY + message(b"2") + UNKNOWN + READY
    seen = read(data, places, "PD!SB!S")
    assert seen.forwarded == data.replace(UNKNOWN, b"<refused>")
    assert (seen.freed_at, seen.errors, seen.is_confused) == (len(data), 2, False)


@given(cuts)
def test_an_error_of_postgres_before_a_refusal_is_told_as_it_is(places: list[int]) -> None:
    data = done("SELECT 1") + READY + ERROR + READY + COLUMNS + ERROR + READY
    seen = read(data, places, "QP!SQ")
    assert (seen.forwarded, seen.freed_at, seen.owed) == (data, len(data), "")


@given(cuts)
def test_a_refusal_behind_a_query_keeps_the_server_up_to_its_sync(places: list[int]) -> None:
    data = done("SELECT 1") + READY + UNKNOWN
    seen = read(data, places, "Q!")
    assert (seen.forwarded, seen.freed_at, seen.owed) == (done("SELECT 1") + READY + b"<refused>", -1, "")
    seen = read(data + message(b"Z", b"I"), places, "Q!S")
    assert seen.freed_at == len(data) + 6


def test_a_notice_in_two_pieces_is_forwarded_as_one() -> None:
    """Else the second piece could reach another client than the first."""
    stream = BackendStream({})
    assert stream.receive(NOTICE[:9]) == b""
    assert stream.receive(NOTICE[9:]) == NOTICE


def test_every_place_where_a_message_can_be_cut() -> None:
    data = status(b"a", b"b") + NOTIFICATION + COLUMNS + row(READY) + ERROR + done("SET") + NOTICE + READY
    for place in range(len(data)):
        read(data, [place])


def test_huge_rows_flow_in_constant_memory() -> None:
    stream = BackendStream({})
    stream.pipeline.sent(ord("Q"))
    piece = bytes(65_536)
    stream.receive(b"D" + (4 + 1024 * len(piece)).to_bytes(4, "big"))
    tracemalloc.start()
    for _ in range(1024):
        assert stream.is_mid_message
        assert stream.receive(piece) is piece
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 65_536
    assert not stream.is_mid_message
    assert stream.receive(done("SELECT 1") + READY)
    assert stream.is_free


@given(cuts)
def test_an_error_too_large_to_be_held_flows_unread(places: list[int]) -> None:
    data = message(b"E", b"M" + b"x" * 70_000 + b"\0\0") + READY
    stream = BackendStream({})
    stream.pipeline.sent(ord("Q"))
    assert stream.receive(data[:1000]) == data[:1000]
    assert stream.receive(data[1000:]) == data[1000:]
    assert stream.is_free
    assert stream.last_error == {}
    assert stream.errors == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"C\0\0\0\3" + READY,
        b"Z\0\0\0\4" + READY,
        b"Z\0\0\0\6II" + READY,
        b"Z\0\1\0\0",
        b"E\0\0\0\0" + READY,
        b"E\0\0\0\4" + READY,
        b"S\0\0\0\6ab" + READY,
        b"S\xff\xff\xff\xffab",
        b"A\x7f\0\0\0ab",
        b"C\x7f\0\0\0ab",
        b"N\0\0\0\2" + READY,
    ],
)
@pytest.mark.parametrize("sent", ["Q", "ES"])
def test_malformed_lengths_and_bodies_are_the_end(bad: bytes, sent: str) -> None:
    def fed(pieces: list[bytes]) -> bool:
        stream = BackendStream({})
        for letter in sent:
            stream.pipeline.sent(ord(letter))
        try:
            for piece in pieces:
                stream.receive(piece)
                assert not stream.is_free
        except ServerProtocolError:
            return True
        return False

    assert fed_every_way(fed, bad)  # type: ignore[arg-type]  # a Sequence is fed as the list it is


@pytest.mark.parametrize("unasked", [row(b"1"), message(b"d", b"x"), COLUMNS, done("SELECT 1"), READY, message(b"1")])
@given(places=cuts)
def test_an_answer_that_nobody_asked_for_confuses(unasked: bytes, places: list[int]) -> None:
    for before in (b"", NOTICE, status(b"a", b"b")):
        seen = read(before + unasked, places, "")
        assert seen.is_confused
        assert seen.freed_at == -1


@given(cuts)
def test_what_an_idle_server_may_say(places: list[int]) -> None:
    seen = read(NOTICE + status(b"a", b"b") + NOTIFICATION + FATAL, places, "")
    assert not seen.is_confused
    assert seen.freed_at == -1
    assert (seen.errors, seen.last_error) == (1, "57P01")


def test_a_query_closes_the_transaction_that_messages_without_a_sync_opened() -> None:
    stream = BackendStream({})
    stream.pipeline.sent(ord("P"))
    stream.receive(message(b"1"))
    assert not stream.pipeline.is_settled
    stream.pipeline.sent(ord("Q"))
    stream.receive(done("SELECT 1") + READY)
    assert stream.is_free
    assert stream.pipeline.is_settled


def test_what_a_function_did_that_was_called_by_its_number_taints() -> None:
    for sent, answer, taints in (("F", message(b"V", b"\xff\xff\xff\xff"), True), ("PS", message(b"1"), False)):
        stream = BackendStream({})
        for letter in sent:
            stream.pipeline.sent(ord(letter))
        stream.receive(answer + READY)
        assert stream.is_free
        assert stream.is_tainted is taints


def test_an_answer_stands_alone_only_as_long_as_it_is_the_last_one() -> None:
    stream = BackendStream({})
    stream.pipeline.sent(ord("Q"))
    stream.receive(COLUMNS + row(b"1") + done("SELECT 1") + READY)
    assert stream.is_free
    assert stream.is_answer_alone
    stream.pipeline.sent(ord("Q"))
    stream.receive(done("BEGIN") + IN_BLOCK)
    assert not stream.is_free
    assert not stream.is_answer_alone


@pytest.mark.parametrize("sent", ["QQ", "PBES", "QS"])
def test_other_answers_do_not_stand_alone(sent: str) -> None:
    stream = BackendStream({})
    for letter in sent:
        stream.pipeline.sent(ord(letter))
    stream.receive(message(b"1") + message(b"2") if sent[0] == "P" else b"")
    stream.receive(done("SELECT 1") + READY)
    assert not stream.is_answer_alone
