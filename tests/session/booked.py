"""What a pipeline owes, one letter each."""

from pgweir_pooler.session.pipeline import (
    NAMED_CLOSE,
    NAMED_PARSE,
    OWN_CLOSE,
    OWN_DESCRIBE,
    OWN_PARSE,
    PORTAL_DESCRIBE,
    REFUSAL,
    TOLD_DESCRIBE,
    Pipeline,
)

# A message that is refused, the client's Parse, Close and Describe with a note; then our own.
_LETTERS = {
    REFUSAL: "!",
    NAMED_PARSE: "p",
    NAMED_CLOSE: "k",
    TOLD_DESCRIBE: "t",
    PORTAL_DESCRIBE: "v",
    OWN_PARSE: "o",
    OWN_DESCRIBE: "w",
    OWN_CLOSE: "x",
}


def letters(pipeline: Pipeline) -> str:
    """Small letters are entries that are no message types."""
    return "".join(_LETTERS.get(tag) or chr(tag) for tag in pipeline.owed)
