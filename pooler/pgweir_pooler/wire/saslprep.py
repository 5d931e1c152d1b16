"""SASLprep (RFC 4013) of a password, with PostgreSQL's exceptions (src/common/saslprep.c).

PostgreSQL takes a password that SASLprep refuses, or that is not UTF-8, as the bytes it is; so must we, or
the two would derive different keys.
"""

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_a1,  # unassigned in Unicode 3.2: prohibited in stored strings
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepared(password: str) -> bytes:
    """The bytes that keys are derived from."""
    raw = password.encode("utf-8", "surrogatepass")
    # ASCII is taken as it is, control characters included, as PostgreSQL does.
    if password.isascii():
        return raw
    mapped = _mapped(password)
    if not mapped or _is_prohibited(mapped) or _breaks_bidi(mapped):
        return raw
    return unicodedata.normalize("NFKC", mapped).encode()


def _mapped(text: str) -> str:
    # Spaces first: U+200B is in both tables, and PostgreSQL makes it a space.
    return "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if stringprep.in_table_c12(char) or not stringprep.in_table_b1(char)
    )


def _is_prohibited(text: str) -> bool:
    return any(in_table(char) for char in text for in_table in _PROHIBITED)


def _breaks_bidi(text: str) -> bool:
    """RFC 3454 section 6: right-to-left text begins and ends so and holds no left-to-right character."""
    if not any(stringprep.in_table_d1(char) for char in text):
        return False
    ends_fit = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return not ends_fit or any(stringprep.in_table_d2(char) for char in text)
