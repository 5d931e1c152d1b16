"""The two logins talk to each other: what the pooler says as a server, the pooler as a client understands."""

from dataclasses import dataclass, field

import pytest

from pgweir_pooler.errors import ServerLoginFailed
from pgweir_pooler.session.backend_login import BackendLogin
from pgweir_pooler.session.frontend_login import FrontendLogin
from pgweir_pooler.session.steps import (
    Admitted,
    BackendStep,
    Failed,
    FrontendStep,
    Identity,
    LoggedIn,
    NeedSecret,
    Refused,
    Send,
)
from pgweir_pooler.wire import messages
from pgweir_pooler.wire.scram import Verifier, mock_verifier

SECRET = Verifier.from_password("secret", b"0123456789abcdef")
USERS = {("acme", "bob"): SECRET, ("main", "bob"): SECRET}
GREETING = (
    messages.authentication_ok()
    + messages.parameter_status(b"server_version", b"18.1")
    + messages.backend_key_data(7, b"keys")
    + messages.ready_for_query()
)


@dataclass
class Conversation:
    """A client's and a server's side without a socket between them; `chunk` is how many bytes travel at once."""

    front: FrontendLogin
    back: BackendLogin
    chunk: int
    shape: list[tuple[str, int]] = field(default_factory=list)  # what an eavesdropper sees: steps and their sizes
    admitted: Admitted | None = None
    ended: BackendStep | None = None

    def run(self) -> "Conversation":
        self.to_front(self.back.start())
        return self

    def to_front(self, data: bytes) -> None:
        for i in range(0, len(data), self.chunk):
            for step in self.front.receive(data[i : i + self.chunk]):
                self.obey(step)

    def to_back(self, data: bytes) -> None:
        for i in range(0, len(data), self.chunk):
            for step in self.back.receive(data[i : i + self.chunk]):
                if isinstance(step, Send):
                    self.shape.append(("client", len(step.data)))
                    self.to_front(step.data)
                else:
                    assert self.ended is None
                    self.ended = step

    def obey(self, step: FrontendStep) -> None:
        self.shape.append((type(step).__name__, len(step.data) if isinstance(step, Send) else 0))
        match step:
            case Send(data):
                self.to_back(data)
            case NeedSecret(tenant, user, _):
                found = USERS.get((tenant, user))
                verifier = found or mock_verifier(f"{user}.{tenant}", b"key")
                for answer in self.front.secret_found(verifier, real=found is not None):
                    self.obey(answer)
            case Admitted():
                self.admitted = step
                self.to_back(GREETING)
            case Refused(error):
                self.to_back(messages.error_response_for(error))
            case _:
                raise AssertionError(step)


def conversation(user: str, *passwords: str, chunk: int = 65_536, default_tenant: str | None = None) -> Conversation:
    front = FrontendLogin(default_tenant=default_tenant, server_nonce="server-nonce")
    back = BackendLogin(
        user=user,
        database="shop",
        passwords=passwords,
        client_nonce="client-nonce",
        parameters={"application_name": "pair", "DateStyle": "ISO"},
    )
    return Conversation(front, back, chunk).run()


@pytest.mark.parametrize("chunk", [1, 7, 65_536])
@pytest.mark.parametrize(("user", "default_tenant"), [("bob.acme", None), ("bob", "main"), ("bob.acme", "main")])
def test_the_right_password_opens_the_door(chunk: int, user: str, default_tenant: str | None) -> None:
    talk = conversation(user, "secret", "older", chunk=chunk, default_tenant=default_tenant)
    tenant = "acme" if user == "bob.acme" else "main"
    settings = (("application_name", "pair"), ("datestyle", "ISO"))
    assert talk.admitted == Admitted(Identity(tenant, "bob", "shop"), settings, 0)
    assert talk.ended == LoggedIn({b"server_version": b"18.1"}, 7, b"keys", b"")
    assert len(talk.front.client_key) == 32


@pytest.mark.parametrize("chunk", [1, 65_536])
def test_wrong_password_unknown_user_and_unknown_tenant_look_alike_step_for_step(chunk: int) -> None:
    wrong = conversation("bob.acme", "wrong", chunk=chunk)
    unknown_user = conversation("eve.acme", "secret", chunk=chunk)
    unknown_tenant = conversation("bob.nope", "secret", chunk=chunk)
    assert wrong.shape == unknown_user.shape == unknown_tenant.shape
    assert [kind for kind, _ in wrong.shape] == [
        "NeedSecret", "Send", "client", "Send", "client", "Refused",
    ]  # fmt: skip
    for talk, user in ((wrong, "bob"), (unknown_user, "eve"), (unknown_tenant, "bob")):
        assert talk.admitted is None
        assert isinstance(talk.ended, Failed)
        assert isinstance(talk.ended.error, ServerLoginFailed)
        assert talk.ended.error.wire_sqlstate() == "28P01"
        assert talk.ended.error.text.endswith(f'password authentication failed for user "{user}"')


def test_a_refusal_before_authentication_reaches_the_client_with_its_sqlstate() -> None:
    talk = conversation("bob", "secret")
    assert isinstance(talk.ended, Failed)
    assert talk.ended.error.wire_sqlstate() == "28000"
    assert "(NoTenant)" in talk.ended.error.text


def test_only_the_first_password_is_tried_on_one_connection() -> None:
    talk = conversation("bob.acme", "wrong", "secret")
    assert talk.admitted is None
