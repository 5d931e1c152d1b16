"""Notifications arrive in the client's encoding, as PostgreSQL itself converts them."""

import pytest

from harness import messages
from harness.databases import Database
from harness.raw_client import RawClient
from pgweir_pooler.errors import NotificationUntranslatable
from pgweir_pooler.session.notification_text import _CODECS, ASK_CHANNELS, channel_of, in_encoding


def notification(text: bytes, pid: int = 7) -> bytes:
    return messages.message(b"A", pid.to_bytes(4, "big") + text)


def test_text_that_every_encoding_has_stays_as_it_is() -> None:
    plain = notification(b"a\0b\0")
    for encoding in ("UTF8", "latin1", "SQL_ASCII", "EUC_JP", "unheard_of"):
        assert in_encoding(plain, encoding) is plain
    utf8 = notification("grün\0ü\0".encode())
    assert in_encoding(utf8, "utf-8") is utf8
    assert in_encoding(utf8, "SQL_ASCII") is utf8


def test_other_text_is_converted_and_the_length_fits() -> None:
    assert in_encoding(notification("grün\0ü\0".encode(), 200), "LATIN1") == notification(b"gr\xfcn\0\xfc\0", 200)


@pytest.mark.parametrize(("encoding", "text"), [("LATIN1", "日本"), ("unheard_of", "ü"), ("WIN1252", "日")])
def test_what_cannot_be_said_in_it_is_an_error(encoding: str, text: str) -> None:
    with pytest.raises(NotificationUntranslatable) as refused:
        in_encoding(notification(f"{text}\0\0".encode()), encoding)
    assert refused.value.wire_sqlstate() == "22P05"


async def test_it_is_what_postgres_sends(database: Database) -> None:
    texts = {"LATIN1": "ü", "WIN1251": "я", "EUC_JP": "日本", "KOI8-R": "я", "LATIN5": "ş", "ISO_8859_7": "λ"}
    texts |= {"SJIS": "日本", "GBK": "日本", "BIG5": "日本", "EUC_KR": "한", "UHC": "한", "GB18030": "日"}
    client = await RawClient.connect(database.address)
    await client.query("listen c")
    for encoding, text in texts.items():
        heard = []
        for client_encoding in ("UTF8", encoding):
            await client.query(f"set client_encoding = '{client_encoding}'")
            notify = f"select pg_notify('c', convert_from('\\x{text.encode().hex()}', 'UTF8'))"
            heard += [messages.message(*found) for found in await client.query(notify) if found.tag == b"A"]
        utf8, expected = heard
        assert in_encoding(utf8, encoding) == expected, encoding
    client.close()


async def test_the_channels_of_a_session_are_read_in_any_encoding(database: Database) -> None:
    client = await RawClient.connect(database.address)
    names = ['a"b', "grün", "x" * 63]
    for name in names:
        await client.query('listen "' + name.replace('"', '""') + '"')
    for encoding in ("UTF8", "LATIN1"):
        await client.query(f"set client_encoding = '{encoding}'")
        client.send(ASK_CHANNELS)
        rows = [body for tag, body in await client.receive_until(b"Z") if tag == b"D"]
        assert sorted(channel_of(row) for row in rows) == sorted(name.encode() for name in names)
    client.close()


def test_every_codec_exists() -> None:
    for codec in _CODECS.values():
        assert "a".encode(codec) == b"a"
