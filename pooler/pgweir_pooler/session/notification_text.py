"""Notifications and channel names in the encoding of a client.

The listening server speaks UTF-8, and so do channel names inside of the pooler. A client may have asked for another
`client_encoding`: PostgreSQL would have converted for it, so its notifications are converted here.
"""

from __future__ import annotations

from typing import Final

from pgweir_pooler.errors import NotificationUntranslatable
from pgweir_pooler.wire.framing import HEADER_SIZE
from pgweir_pooler.wire.messages import message as whole_message
from pgweir_pooler.wire.messages import query

# What a borrowed server listens on, whatever its client's encoding is: one row per channel, hexadecimal UTF-8.
ASK_CHANNELS: Final = query(
    b"SELECT pg_catalog.encode(pg_catalog.convert_to(channel, 'UTF8'), 'hex')"
    b" FROM pg_catalog.pg_listening_channels() AS channel"
)

_AS_IT_IS: Final = frozenset({"UTF8", "UNICODE", "SQL_ASCII"})

# PostgreSQL's names (documentation, "Character Set Support") without what is not a letter or digit; else Python's own.
_CODECS: Final = {
    **{
        f"LATIN{n}": f"iso8859-{part}"
        for n, part in ((1, 1), (2, 2), (3, 3), (4, 4), (5, 9), (6, 10), (7, 13), (8, 14))
    },
    "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16",
    **{f"WIN{page}": f"cp{page}" for page in (866, 874, 1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 1258)},
    **{f"ISO8859{part}": f"iso8859-{part}" for part in (5, 6, 7, 8)},
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "EUCJP": "euc_jp",
    "EUCJIS2004": "euc_jis_2004",
    "EUCKR": "euc_kr",
    "EUCCN": "gb2312",
    "SJIS": "cp932",
    "SHIFTJIS2004": "shift_jis_2004",
    "BIG5": "cp950",
    "GBK": "cp936",
    "GB18030": "gb18030",
    "UHC": "cp949",
    "JOHAB": "johab",
}


def channel_of(row: bytes) -> bytes:
    """The channel in a DataRow (its body) of ASK_CHANNELS."""
    return bytes.fromhex(row[6:].decode("ascii"))  # behind the number of columns and the length of the only one


def in_encoding(message: bytes, client_encoding: str) -> bytes:
    """A whole NotificationResponse as a client with this `client_encoding` must get it.

    Raises NotificationUntranslatable (FATAL) for a text that the encoding has no characters for.
    """
    name = "".join(x for x in client_encoding.upper() if x.isalnum() or x == "_")
    if name in _AS_IT_IS or message.isascii():
        return message
    codec = _CODECS.get(name.replace("_", ""))
    if codec is None:
        raise NotificationUntranslatable(client_encoding)
    pid, text = message[HEADER_SIZE : HEADER_SIZE + 4], message[HEADER_SIZE + 4 :]
    try:
        return whole_message(b"A", pid + text.decode("utf-8").encode(codec))
    except UnicodeError:
        raise NotificationUntranslatable(client_encoding) from None
