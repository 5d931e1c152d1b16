"""A password's verifier checks as one that was made before, and is made by the first proof, not by the challenge."""

import pytest

from pgweir_pooler.wire import scram
from pgweir_pooler.wire.password_verifier import PasswordVerifier
from pgweir_pooler.wire.scram import ClientExchange, ServerExchange, Verifier

SALT = b"0123456789abcdef"


def test_its_keys_are_those_of_a_verifier_of_the_password() -> None:
    made, plain = Verifier.from_passwords(["secret", "old"], SALT, 2), PasswordVerifier(["secret", "old"], SALT, 2)
    assert (plain.salt, plain.iterations) == (made.salt, made.iterations)
    assert plain.pairs() == made.pairs()
    assert "secret" not in repr(plain)


@pytest.mark.parametrize(("password", "is_good"), [("secret", True), ("wrong", False)])
def test_keys_are_made_by_the_proof_once(monkeypatch: pytest.MonkeyPatch, password: str, is_good: bool) -> None:
    verifier = PasswordVerifier(["secret"], SALT, 2)
    made: list[int] = []
    real = scram._salted_password

    def counted(text: str, salt: bytes, iterations: int) -> bytes:
        made.append(iterations)
        return real(text, salt, iterations)

    for _ in range(2):
        server, client = ServerExchange(verifier, "server"), ClientExchange(password, "client")
        challenge = server.receive_first(client.first())
        final = client.receive_first(challenge)
        monkeypatch.setattr(scram, "_salted_password", counted)
        assert (server.receive_final(final) is not None) is is_good
        monkeypatch.setattr(scram, "_salted_password", real)
    assert made == [2]
