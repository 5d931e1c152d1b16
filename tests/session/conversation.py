"""What the tests of both logins share: packets to send, and steps in a form that compares."""

from collections.abc import Callable, Iterable, Sequence

from pgweir_pooler.errors import PoolerError
from pgweir_pooler.session.steps import Failed, Refused, Step
from pgweir_pooler.wire.messages import PROTOCOL_3_0


def packet(code: int, body: bytes = b"") -> bytes:
    """One untyped packet."""
    return (len(body) + 8).to_bytes(4, "big") + code.to_bytes(4, "big") + body


def startup(version: int = PROTOCOL_3_0, /, **parameters: str) -> bytes:
    """A StartupMessage."""
    pairs = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items())
    return packet(version, pairs + b"\0")


def told(error: PoolerError) -> tuple[str, str, str, str, str]:
    """All that a client sees of an error."""
    return error.severity, error.wire_sqlstate(), error.client_text(), error.detail, error.hint


def plain(steps: Iterable[Step]) -> list[object]:
    """Steps that compare by value; errors by what they tell."""
    return [(type(step).__name__, *told(step.error)) if isinstance(step, Refused | Failed) else step for step in steps]


def all_steps(receive: Callable[[bytes], Sequence[Step]], pieces: Iterable[bytes]) -> list[object]:
    """The steps that a conversation gives for some pieces of bytes."""
    return [step for piece in pieces for step in plain(receive(piece))]
