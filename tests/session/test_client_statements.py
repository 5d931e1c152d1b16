"""What becomes of Parse, Bind, Describe and Close on a shared server, for PostgreSQL and for the client."""

from typing import Any

import pytest
from hypothesis import given

from harness import messages
from harness.messages import Message, error_fields, message, tags
from pgweir_pooler.session.backend_stream import BackendStream
from pgweir_pooler.session.client_statements import MAX_STATEMENTS_PER_CLIENT, REJECTED
from pgweir_pooler.session.frontend_stream import FOR_COPY, FrontendStream
from pgweir_pooler.session.statements import StatementTable
from session.booked import letters
from wire.splits import cuts, fed_every_way

INT4 = message(b"T", b"\0\1n\0" + b"\0" * 6 + b"\0\0\0\x17\0\4\xff\xff\xff\xff\0\0")
FLOAT4 = INT4.replace(b"\0\0\0\x17", b"\0\0\2\xbc")
PARAMETERS = message(b"t", b"\0\0")
READY = message(b"Z", b"I")
NOTHING_CLOSED = messages.close_statement("pgweir: nothing")
EXECUTE, SYNC = messages.execute(), messages.SYNC


def split(data: bytes) -> list[Message]:
    """Whole messages."""
    found, at = [], 0
    while at < len(data):
        end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        found.append(Message(data[at : at + 1], data[at + 5 : end]))
        at = end
    return found


class Server:
    """A server that answers as PostgreSQL would; `shape` is that of whatever is prepared from now on."""

    def __init__(self, limit: int = 200) -> None:
        self.stream = BackendStream({})
        self.stream.pipeline.statements.limit = limit
        self.shape = INT4
        self.prepared: dict[bytes, bytes] = {}  # name -> its shape
        self.got: list[Message] = []  # since somebody looked
        self._is_skipping = False
        self._held = b""  # the beginning of a message

    def answer(self, data: bytes) -> bytes:
        """What the client reads in answer to these bytes from the pooler."""
        replies = self.replies(data)
        out = b""
        while replies:
            out += self.stream.receive(replies)
            replies, self.stream.rest = self.stream.rest, b""
        return out

    def replies(self, data: bytes) -> bytes:
        """What it says itself."""
        data = self._held + data
        end = 0
        while len(data) - end >= 5 and (after := end + 1 + int.from_bytes(data[end + 1 : end + 5], "big")) <= len(data):
            end = after
        self._held = data[end:]
        return b"".join(self._reply(tag, body) for tag, body in split(data[:end]))

    def _reply(self, tag: bytes, body: bytes) -> bytes:
        self.got.append(Message(tag, body))
        if tag == b"S":
            self._is_skipping = False
            return READY
        if self._is_skipping or tag == b"H":
            return b""
        if tag == b"P":
            name, text, _ = body.split(b"\0", 2)
            if text.startswith(b"bad"):
                return self._fail("42601")
            if name and name in self.prepared:
                return self._fail("42P05")
            self.prepared[name] = self.shape
            return message(b"1")
        if tag == b"B":
            name = body.split(b"\0")[1]
            self._bound = name
            return message(b"2") if name in self.prepared else self._fail("26000")
        if tag == b"D":
            name = self._bound if body[:1] == b"P" else body[1:-1]
            if name not in self.prepared:
                return self._fail("26000")
            return (PARAMETERS if body[:1] == b"S" else b"") + self.prepared[name]
        if tag == b"C":
            self.prepared.pop(body[1:-1], None)
            return message(b"3")
        if tag == b"Q":
            return message(b"C", b"SELECT 1\0") + READY
        return message(b"C", b"SELECT 1\0")

    def _fail(self, sqlstate: str) -> bytes:
        self._is_skipping = True
        return message(b"E", f"SERROR\0C{sqlstate}\0M{sqlstate}\0\0".encode())

    def take(self) -> list[Message]:
        """What PostgreSQL got since the last time."""
        got, self.got = self.got, []
        return got


class Client:
    """A client whose bytes are cut as `places` says, on whatever server it is told."""

    def __init__(self, table: StatementTable | None = None) -> None:
        self.stream = FrontendStream(StatementTable() if table is None else table)

    def on(self, server: Server, *parts: bytes, is_lent: bool = False) -> bytes:
        """The client's tags, `E` with the SQLSTATE; in one loan of the server."""
        pieces = list(parts)
        pipeline = server.stream.pipeline
        out = b""
        while pieces:
            out += server.answer(self.stream.receive(pieces.pop(0), pipeline))
            if self.stream.stop == FOR_COPY:
                assert self.stream.statements is not None
                assert self.stream.statements.can_go_on(pipeline)
                pieces.insert(0, self.stream.take_stopped())
            elif self.stream.stop:  # this server has what SQL may name
                self.stream.replayed()
                pieces.insert(0, self.stream.take_stopped())
        assert not self.stream.error
        if not is_lent:
            assert not pipeline.is_confused, letters(pipeline)
            assert pipeline.is_settled
            assert not pipeline.notes
            self.stream.loan_ended()
            pipeline.statements.unnamed = None
        return out


def told(out: bytes) -> str:
    """Tags; errors by their SQLSTATE."""
    return " ".join(error_fields(body)["C"] if tag == b"E" else tag.decode() for tag, body in split(out))


def parse(name: str, text: str = "select n") -> bytes:
    return messages.parse(text, name)


def bind(name: str = "s", portal: str = "") -> bytes:
    return messages.bind(statement=name, portal=portal)


describe = messages.describe_statement
close = messages.close_statement


# --- names, however the bytes are cut

CONVERSATIONS: list[tuple[bytes, str]] = [
    (parse("s") + bind() + EXECUTE + SYNC, "1 2 C Z"),
    (parse("s") + describe("s") + SYNC + bind() + EXECUTE + SYNC, "1 t T Z 2 C Z"),
    (parse("s") + bind() + messages.describe_portal() + EXECUTE + SYNC, "1 2 T C Z"),
    (parse("s") + parse("t") + bind("t") + EXECUTE + bind() + EXECUTE + SYNC, "1 1 2 C 2 C Z"),
    (bind() + EXECUTE + SYNC, "26000 Z"),
    (describe("s") + SYNC, "26000 Z"),
    (parse("s") + parse("s", "select 2") + SYNC + bind() + EXECUTE + SYNC, "1 42P05 Z 2 C Z"),
    (parse("s", "bad") + SYNC + bind() + SYNC, "42601 Z 26000 Z"),
    (parse("s", "bad") + bind() + EXECUTE + SYNC + parse("s") + SYNC, "42601 Z 1 Z"),
    (parse("s") + close("s") + SYNC + bind() + SYNC, "1 3 Z 26000 Z"),
    (parse("s") + close("s") + parse("s", "select 2") + bind() + SYNC, "1 3 1 2 Z"),
    (close("s") + close("s") + SYNC, "3 3 Z"),
    (parse("s") + SYNC + bind("x") + close("s") + SYNC + bind() + SYNC, "1 Z 26000 Z 2 Z"),
    (parse("s") + SYNC + bind("x") + close("s") + parse("s", "b") + SYNC + bind() + SYNC, "1 Z 26000 Z 2 Z"),
    (parse("") + SYNC + bind("") + EXECUTE + SYNC, "1 Z 2 C Z"),
    (parse("") + messages.query("select 1") + bind("") + SYNC, "1 C Z 26000 Z"),
    (parse("") + close("") + bind("") + SYNC, "1 3 26000 Z"),
    (bind("") + SYNC, "26000 Z"),
    (describe("") + SYNC, "26000 Z"),
    (parse("s") + parse("", "bad") + SYNC + bind("") + SYNC + bind() + SYNC, "1 42601 Z 26000 Z 2 Z"),
    (bind("x") + parse("") + SYNC + bind("") + SYNC, "26000 Z 26000 Z"),
    (bind("x") + messages.query("q") + parse("") + SYNC + bind("") + SYNC, "26000 Z 26000 Z"),
    ((parse("s") + SYNC) * 3, "1 Z 42P05 Z 42P05 Z"),
]


@pytest.mark.parametrize(("data", "expected"), CONVERSATIONS)
def test_a_client_that_waits_for_its_answers_reads_what_it_would_on_a_connection_of_its_own(
    data: bytes, expected: str
) -> None:
    batches = [batch + SYNC for batch in data.split(SYNC)[:-1]]
    assert told(Client().on(Server(), *batches)) == expected


@pytest.mark.parametrize(("data", "expected"), CONVERSATIONS)
@pytest.mark.parametrize("is_known", [False, True], ids=["new", "known"])
@given(places=cuts)
def test_it_is_the_same_however_the_bytes_are_cut(
    data: bytes, expected: str, is_known: bool, places: list[int]
) -> None:
    def fed(pieces: list[bytes]) -> str:
        table, server = StatementTable(), Server()
        other = Client(table)
        if is_known:
            other.on(server, parse("other") + parse("another", "select 2") + SYNC)
        return told(Client(table).on(server, *pieces))

    assert fed_every_way(fed, data, places) == expected  # type: ignore[arg-type]  # fed as the list it is


@pytest.mark.parametrize(("data", "expected"), CONVERSATIONS)
def test_it_is_the_same_when_all_is_sent_before_any_answer(data: bytes, expected: str) -> None:
    server, client = Server(), Client()
    out = b""
    while data:  # it stops where only an answer tells what a name stands for
        sent = client.stream.receive(data, server.stream.pipeline)
        data = client.stream.take_stopped()
        out += server.answer(sent)
    assert told(out) == expected
    assert server.stream.pipeline.is_settled


def test_names_of_clients_do_not_get_to_the_server() -> None:
    table, server = StatementTable(), Server()
    for _ in range(3):
        client = Client(table)
        assert told(client.on(server, parse("mine") + bind("mine") + EXECUTE + SYNC)) == "1 2 C Z"
        assert not any(b"mine" in body for _, body in server.take())
        assert told(client.on(server, bind("mine") + close("mine") + SYNC)) == "2 3 Z"
        assert [message(*each) for each in server.take()][-2:] == [NOTHING_CLOSED, SYNC]
    assert list(server.prepared) == [b"pgweir_1"]  # one for all


def test_what_postgres_gets_for_a_refused_message() -> None:
    server = Server()
    Client().on(server, bind("x") + SYNC)
    assert [message(*each) for each in server.take()] == [REJECTED, SYNC]


def test_a_statement_is_prepared_where_it_is_used() -> None:
    table, one, two = StatementTable(), Server(), Server()
    client = Client(table)
    client.on(one, parse("s") + SYNC)
    two.take()
    assert told(client.on(two, bind() + EXECUTE + SYNC)) == "2 C Z"
    assert tags(two.take()) == b"CPDBES"
    assert told(client.on(two, bind() + EXECUTE + SYNC)) == "2 C Z"
    assert tags(two.take()) == b"BES"
    assert told(client.on(one, close("s") + SYNC)) == "3 Z"
    assert list(one.prepared) == list(two.prepared) == [b"pgweir_1"]


def test_a_large_parse_and_bind_are_not_kept_twice() -> None:
    server, client = Server(), Client()
    large = "select '" + "x" * 3_000_000 + "'"
    data = parse("s", large) + SYNC + messages.bind([b"x" * 3_000_000], statement="s") + SYNC
    pieces = [data[i : i + 65_536] for i in range(0, len(data), 65_536)]
    pipeline = server.stream.pipeline
    sent = b""
    for piece in pieces:
        sent += client.stream.receive(piece, pipeline)
    assert told(server.answer(sent)[:5]) == "1"
    assert client.stream.held == b""


# --- limits


def test_the_least_recently_used_are_closed_on_the_server_and_prepared_again_when_used() -> None:
    table, server = StatementTable(), Server(limit=2)
    client = Client(table)
    names = ["a", "b", "c"]
    client.on(server, b"".join(parse(name, name) for name in names) + SYNC)
    assert len(server.prepared) == 2
    for name in names * 2:
        assert told(client.on(server, bind(name) + EXECUTE + SYNC)) == "2 C Z"
        assert len(server.prepared) == 2
    # In one pipeline, too.
    assert told(client.on(server, b"".join(bind(name) + EXECUTE for name in names * 2) + SYNC)) == "2 C " * 6 + "Z"
    assert len(server.prepared) == 2


def test_skipped_closes_leave_nothing_unknown_on_the_server() -> None:
    table, server = StatementTable(), Server(limit=2)
    client = Client(table)
    for turn in range(10):
        client.on(server, parse(f"a{turn}", f"a{turn}") + parse(f"b{turn}", f"b{turn}") + SYNC)
        fails = messages.execute() + bind("nowhere") + parse("c", f"c{turn}") + SYNC
        assert told(client.on(server, fails)) == "C 26000 Z"
        assert {statement.name for statement in server.stream.pipeline.statements.copies} == set(server.prepared)


def test_one_client_has_so_many_names_and_no_more() -> None:
    server, client = Server(), Client()
    client.on(server, b"".join(parse(f"{n}") for n in range(MAX_STATEMENTS_PER_CLIENT)) + SYNC)
    assert told(client.on(server, parse("one more") + SYNC)) == "54000 Z"
    assert told(client.on(server, close("0") + parse("one more") + SYNC)) == "3 1 Z"


# --- shapes


def test_a_bind_waits_until_the_server_has_described_what_the_client_was_told_of() -> None:
    table, one, two = StatementTable(), Server(), Server()
    client = Client(table)
    client.on(one, parse("s") + describe("s") + SYNC)
    pipeline = two.stream.pipeline
    out = client.stream.receive(bind() + EXECUTE + SYNC, pipeline)
    assert client.stream.stop == FOR_COPY
    assert tags(split(out)) == b"CPDH"
    statements = client.stream.statements
    assert statements is not None
    assert not statements.can_go_on(pipeline)
    assert two.answer(out) == b""
    assert statements.can_go_on(pipeline)
    assert told(client.on(two, client.stream.take_stopped())) == "2 C Z"
    assert told(client.on(two, bind() + EXECUTE + SYNC)) == "2 C Z"


def test_a_bind_that_waits_for_a_preparation_that_fails_goes_on_to_hear_why() -> None:
    table, one, two = StatementTable(), Server(), Server()
    client = Client(table)
    client.on(one, parse("s") + describe("s") + SYNC)
    pipeline = two.stream.pipeline
    out = client.stream.receive(bind("nowhere") + bind() + EXECUTE + SYNC, pipeline)
    assert client.stream.stop == FOR_COPY
    answered = two.answer(out)
    assert told(answered) == "26000"
    assert client.stream.statements is not None
    assert client.stream.statements.can_go_on(pipeline)
    assert told(client.on(two, client.stream.take_stopped())) == "Z"
    assert not pipeline.statements.copies


def moved(*first: bytes, shape: bytes = FLOAT4) -> tuple[Client, Server, Server]:
    """A client that did this where the shape is INT4, and a server where it is another one by now."""
    table, old, new = StatementTable(), Server(), Server()
    new.shape = shape
    client = Client(table)
    client.on(old, *first)
    return client, old, new


@pytest.mark.parametrize("how", [describe("s"), bind() + messages.describe_portal(), bind() + EXECUTE])
def test_another_shape_is_refused_until_the_client_is_told(how: bytes) -> None:
    client, _, new = moved(parse("s") + how + SYNC)
    for _ in range(2):
        assert told(client.on(new, bind() + EXECUTE + SYNC)) == "0A000 Z"
    assert told(client.on(new, bind() + messages.describe_portal() + EXECUTE + SYNC)) == "2 T C Z"
    assert told(client.on(new, bind() + EXECUTE + SYNC)) == "2 C Z"


def test_a_client_that_was_told_nothing_may_be_told_anything() -> None:
    client, _, new = moved(parse("s") + SYNC)
    assert told(client.on(new, bind() + EXECUTE + SYNC)) == "2 C Z"


@pytest.mark.parametrize(
    "vain",
    [
        bind("nowhere") + describe("s"),
        bind("nowhere") + bind() + messages.describe_portal(),
        parse("t") + bind("t", "other") + bind("s", "mine") + messages.describe_portal("other") + bind("nowhere"),
    ],
)
def test_a_description_that_does_not_come_tells_nothing(vain: bytes) -> None:
    client, _, new = moved(parse("s") + describe("s") + SYNC)
    Client(client.stream._table).on(new, parse("s") + SYNC)
    out = told(client.on(new, vain + SYNC))
    assert out.endswith(("26000 Z", "0A000 Z"))
    assert told(client.on(new, bind() + EXECUTE + SYNC)) == "0A000 Z"


def test_a_copy_of_a_former_shape_is_replaced_for_who_knows_the_one_of_now() -> None:
    table, old, new = StatementTable(), Server(), Server()
    Client(table).on(old, parse("s") + SYNC)
    new.shape = FLOAT4
    client = Client(table)
    client.on(new, parse("s") + describe("s") + SYNC)
    old.shape = FLOAT4
    assert told(client.on(old, bind() + EXECUTE + SYNC)) == "2 C Z"
    assert old.prepared[b"pgweir_2"] == FLOAT4
    # A client that still reads by the former shape must not get it back.
    assert told(client.on(new, bind() + EXECUTE + SYNC)) == "2 C Z"


def test_a_statement_whose_shape_postgres_refuses_is_retired() -> None:
    for used in (bind() + EXECUTE, describe("s")):
        table, server = StatementTable(), Server()
        client, other = Client(table), Client(table)
        for each in (client, other):
            each.on(server, parse("s") + SYNC)
        client.on(server, used + SYNC, is_lent=True)
        assert client.stream.statements is not None
        client.stream.statements.plan_changed()
        client.stream.loan_ended()
        for each in (client, other):
            assert told(each.on(server, bind() + messages.describe_portal() + SYNC)) == "2 T Z"
        assert list(server.prepared) == [b"pgweir_1", b"pgweir_2"]


def test_the_unnamed_statement_moves() -> None:
    for first, shape, expected in (
        (parse("") + describe(""), INT4, "2 C Z"),
        (parse("") + describe(""), FLOAT4, "0A000 Z"),
        (parse(""), FLOAT4, "2 C Z"),
        (parse("") + bind("") + EXECUTE, FLOAT4, "2 C Z"),
        (parse("") + bind("") + messages.describe_portal() + EXECUTE, INT4, "2 C Z"),
        (parse("") + bind("") + messages.describe_portal() + EXECUTE, FLOAT4, "0A000 Z"),
        # A portal of another statement tells nothing of it.
        (parse("s") + parse("") + SYNC + bind() + messages.describe_portal() + SYNC, FLOAT4, "2 C Z"),
        (parse("s") + parse("") + bind("", "u") + bind("s", "p") + messages.describe_portal("u"), FLOAT4, "0A000 Z"),
    ):
        client, _, new = moved(first + SYNC, shape=shape)
        assert told(client.on(new, bind("") + EXECUTE + SYNC)) == expected, first
        assert told(client.on(new, bind("") + messages.describe_portal() + EXECUTE + SYNC)) == "2 T C Z"


def test_an_unnamed_text_that_is_too_long_to_be_kept_ends_with_its_loan() -> None:
    one, two, client = Server(), Server(), Client()
    assert told(client.on(one, parse("", "x" * 2_000_000) + bind("") + SYNC)) == "1 2 Z"
    assert told(client.on(two, bind("") + SYNC)) == "26000 Z"


# --- DEALLOCATE ALL in a pipeline


def test_what_is_parsed_behind_a_deallocate_all_is_not_meant_by_it() -> None:
    server, client = Server(), Client()
    client.on(server, parse("s") + parse("t") + SYNC)
    pipeline = server.stream.pipeline
    dropped = parse("", "deallocate all") + bind("") + EXECUTE
    assert told(client.on(server, dropped + parse("s") + bind("s") + SYNC, is_lent=True)) == "1 2 C 1 2 Z"
    assert client.stream.statements is not None
    client.stream.statements.forget(pipeline.statements)
    assert list(client.stream.statements.names) == [b"s"]
    client.stream.loan_ended()
    assert told(client.on(server, bind("s") + SYNC)) == "2 Z"
    # Seen only by its tag, as behind EXECUTE: all there are.
    client.stream.statements.forget(pipeline.statements)
    assert not client.stream.statements.names
    assert not pipeline.statements.copies


def test_a_deallocate_all_that_is_skipped_drops_nothing() -> None:
    server, client = Server(), Client()
    client.on(server, parse("s") + SYNC)
    dropped = parse("", "deallocate all") + bind("") + EXECUTE
    assert told(client.on(server, bind("x") + dropped + parse("s", "other") + SYNC)) == "26000 Z"
    client_statements: Any = client.stream.statements
    assert client_statements.names[b"s"].body.startswith(b"select n")
    assert told(client.on(server, bind("s") + SYNC)) == "2 Z"
