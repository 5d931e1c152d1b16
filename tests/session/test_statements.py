"""The books of prepared statements: who keeps what, and what an answer or its lack means for them."""

import gc
import struct

import pytest

from pgweir_pooler.session.statement_notes import (
    ClientNames,
    ClientStatement,
    Eviction,
    Preparation,
    Registration,
    Removal,
    Tells,
    Told,
    UnnamedParse,
)
from pgweir_pooler.session.statements import Copy, ServerStatements, StatementTable, shape_of

BODY = b"select 1\0\0\0"


def column(
    name: bytes, type_id: int = 23, *, modifier: int = -1, table: int = 0, number: int = 0, text_format: int = 0
) -> bytes:
    return name + b"\0" + struct.pack(">IHIhiH", table, number, type_id, 4, modifier, text_format)


def columns(*parts: bytes) -> bytes:
    """The body of a RowDescription."""
    return len(parts).to_bytes(2, "big") + b"".join(parts)


def client_statement() -> ClientStatement:
    return ClientStatement(BODY, None)


def copy_of(shape: bytes | None) -> Copy:
    copy = Copy()
    copy.shape = shape
    return copy


# --- one statement for all who have the same text


def test_equal_bodies_are_one_statement_as_long_as_somebody_knows_it() -> None:
    table = StatementTable()
    first = table.intern(BODY, 5)
    assert table.intern(bytes(bytearray(BODY)), 5) is first
    assert table.intern(BODY + b"x", 0) is not first
    assert (first.body, first.asks, first.is_retired) == (BODY, 5, False)
    name = first.name
    assert name.startswith(b"pgweir_")
    del first
    gc.collect()
    assert len(table) == 0
    assert table.intern(BODY, 5).name != name  # a server may still have the old one


def test_a_retired_statement_gets_another_name() -> None:
    table = StatementTable()
    old = table.intern(BODY, 0)
    table.retire(old)
    new = table.intern(BODY, 0)
    assert old.is_retired
    assert (new is old, new.is_retired, new.name == old.name) == (False, False, False)
    table.retire(old)  # once more: not the new one
    assert table.intern(BODY, 0) is new


# --- shapes


def test_the_shape_is_what_a_client_must_know() -> None:
    plain = shape_of(b"\0\0", columns(column(b"a"), column(b"b", 25)))
    assert plain == shape_of(b"\0\0", columns(column(b"a", table=7, number=3, text_format=1), column(b"b", 25)))
    others = [
        shape_of(b"\0\1\0\0\0\x17", columns(column(b"a"), column(b"b", 25))),
        shape_of(b"\0\0", columns(column(b"a"))),
        shape_of(b"\0\0", columns(column(b"a"), column(b"b", 26))),
        shape_of(b"\0\0", columns(column(b"a"), column(b"c", 25))),
        shape_of(b"\0\0", columns(column(b"b", 25), column(b"a"))),
        shape_of(b"\0\0", columns(column(b"a"), column(b"b", 25, modifier=9))),
        shape_of(b"\0\0", b""),
        shape_of(b"", b""),
    ]
    assert len({plain, *others}) == len(others) + 1


@pytest.mark.parametrize("row", [b"", b"\0", b"\0\1", b"\0\1name without end", b"\0\1a\0\0\0"])
def test_a_description_of_another_form_has_a_shape_of_its_own(row: bytes) -> None:
    assert shape_of(b"", row) == shape_of(b"", row)


def test_a_client_is_misled_by_another_shape_than_it_was_told() -> None:
    client = client_statement()
    assert not client.is_misled_by(copy_of(b"a"))
    client.told = told = copy_of(b"a")
    assert not client.is_misled_by(told)
    assert not client.is_misled_by(copy_of(b"a"))
    assert client.is_misled_by(copy_of(b"b"))
    client.told = copy_of(None)  # its preparation came to nothing, so nothing was told
    assert not client.is_misled_by(copy_of(b"b"))


def test_copies_are_numbered_as_they_are_made() -> None:
    assert Copy().number < Copy().number


# --- a server's copies


def test_the_least_recently_used_copy_makes_room() -> None:
    table, server = StatementTable(), ServerStatements()
    server.limit = 2
    one, two, three = (table.intern(b"%d" % n, 0) for n in range(3))
    server.add(one)
    server.add(two)
    server.copies.move_to_end(one)
    _, closed = server.add(three)
    assert [statement for statement, _ in closed] == [two]
    assert list(server.copies) == [one, three]
    server.limit = 0  # the one that is needed stays
    _, closed = server.add(two)
    assert [statement for statement, _ in closed] == [one, three]
    assert list(server.copies) == [two]
    server.unnamed = client_statement()
    server.forget()
    assert not server.copies
    assert server.unnamed is None


def test_an_eviction_that_was_skipped_did_not_happen() -> None:
    table, server = StatementTable(), ServerStatements()
    server.limit = 1
    one, two = (table.intern(b"%d" % n, 0) for n in range(2))
    copy, _ = server.add(one)
    _, [(statement, closed)] = server.add(two)
    assert closed is copy
    note = Eviction(server, statement, closed)
    note.answered()
    assert list(server.copies) == [two]
    note.dropped()
    assert list(server.copies) == [one, two]  # the next to go
    assert server.copies[one] is copy
    fresh, _ = server.add(two)
    Eviction(server, two, copy).dropped()  # it has been prepared again since
    assert server.copies[two] is fresh


def test_a_preparation_knows_its_shape_when_it_is_described() -> None:
    table, server = StatementTable(), ServerStatements()
    statement = table.intern(BODY, 0)
    copy, _ = server.add(statement)
    note = Preparation(server, statement, copy)
    note.described(ord("t"), b"\0\0")
    assert copy.shape is None
    note.described(ord("T"), columns(column(b"a")))
    note.answered()
    assert copy.shape == shape_of(b"\0\0", columns(column(b"a")))
    note.dropped()
    assert not server.copies
    newer, _ = server.add(statement)
    note.dropped()  # of a copy that is gone already
    assert server.copies[statement] is newer


# --- a client's names


def registered(names: dict[bytes, ClientStatement], name: bytes, client: ClientStatement) -> Registration:
    """The note of a Parse."""
    server = ServerStatements()
    statement = StatementTable().intern(BODY, 0)
    copy, _ = server.add(statement)
    return Registration(names, name, client, Preparation(server, statement, copy))


def test_a_name_is_good_unless_its_parse_fails() -> None:
    names: dict[bytes, ClientStatement] = {}
    client = client_statement()
    note = registered(names, b"s", client)
    assert names == {b"s": client}  # the pipeline may use it at once
    assert not client.is_settled  # an error before it would have it skipped
    note.answered()
    assert names == {b"s": client}
    assert client.is_settled
    note = registered(names, b"t", client_statement())
    note.dropped()
    assert names == {b"s": client}


def test_a_close_that_was_skipped_gives_the_name_back() -> None:
    old, new = client_statement(), client_statement()
    names, closing = {b"s": old}, set[bytes]()
    removal = Removal(names, closing, b"s", ServerStatements())
    assert (names, closing) == ({}, {b"s"})
    removal.dropped()
    assert (names, closing) == ({b"s": old}, set())
    removal = Removal(names, closing, b"s", ServerStatements())
    registration = registered(names, b"s", new)
    removal.dropped()
    assert names == {b"s": new}
    registration.dropped()
    assert names == {b"s": old}
    removal, registration = Removal(names, closing, b"s", ServerStatements()), registered(names, b"s", new)
    removal.answered()
    registration.answered()
    assert names == {b"s": new}
    assert new.before is None
    Removal(names, closing, b"unknown", ServerStatements()).dropped()
    assert names == {b"s": new}


def test_a_parse_that_fails_has_prepared_nothing() -> None:
    table, server, names = StatementTable(), ServerStatements(), dict[bytes, ClientStatement]()
    statement = table.intern(BODY, 0)
    copy, _ = server.add(statement)
    note = Registration(names, b"s", client_statement(), Preparation(server, statement, copy))
    note.answered()
    assert (list(names), list(server.copies)) == ([b"s"], [statement])
    note.dropped()
    assert (list(names), list(server.copies)) == ([], [])


def test_the_unnamed_statement_is_gone_when_its_parse_failed() -> None:
    owner, server, client = ClientNames(), ServerStatements(), client_statement()
    owner.unnamed = client
    note = UnnamedParse(owner, server, client)
    assert not note.is_done
    note.answered()
    assert note.is_done
    assert owner.unnamed is server.unnamed is client
    newer = owner.unnamed = client_statement()
    UnnamedParse(owner, server, client).answered()
    UnnamedParse(owner, server, client).dropped()
    assert owner.unnamed is newer
    note = UnnamedParse(owner, server, newer)
    note.dropped()
    assert note.is_done
    assert owner.unnamed is None


def test_a_client_is_told_unless_the_answer_does_not_come() -> None:
    client, copy = client_statement(), copy_of(b"a")
    note = Tells(client, copy)
    assert client.told is copy  # what follows in the pipeline is read by it
    note.dropped()
    assert client.told is None
    Tells(client, copy).answered()
    assert client.told is copy
    unnamed = client_statement()
    told = Told(unnamed)
    told.described(ord("t"), b"\0\0")
    assert unnamed.told is None
    told.described(ord("n"), b"")
    assert unnamed.told is not None
    assert unnamed.told.shape == shape_of(b"\0\0", b"")


@pytest.mark.parametrize(("name", "is_misled"), [(b"a", False), (b"b", True)])
def test_a_client_that_was_told_of_a_portal_knows_the_rows_alone(name: bytes, *, is_misled: bool) -> None:
    unnamed = client_statement()
    unnamed.described(ord("T"), columns(column(b"a")))
    unnamed.read_portal()
    copy = copy_of(shape_of(b"\0\0", columns(column(name))))
    assert unnamed.is_misled_by(copy) is is_misled
