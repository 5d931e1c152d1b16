"""The watch finds each kind of secret in each of its forms, and nothing in texts that hold none."""

import base64
import json

import pytest
from pydantic import SecretStr

from harness.config import cluster, files, tenant
from harness.databases import Database
from harness.secret_watch import WATCH, Secrets, SecretShownError
from harness.stand_in import stand_in
from pgweir_contract.models import AdminConsole, AdminUser

KEY = (
    "-----BEGIN PRIVATE KEY-----\n"
    + "\n".join(["MIGHAgEAMBMGByqGSM49" + "AbCd" * 11] * 3)
    + "\n-----END PRIVATE KEY-----\n"
)
STORED, SERVER = "A" * 43 + "=", "B" * 43 + "="


def watched() -> Secrets:
    secrets = Secrets()
    entry = {
        "tenantId": "acme",
        "users": [
            {"name": "app", "passwords": ['pass"wörd']},
            {"name": "other", "verifiers": [f"SCRAM-SHA-256$4096:c2FsdHNhbHQ=${STORED}:{SERVER}"]},
        ],
    }
    content = {
        "tenants-00.json": json.dumps({"tenants": [entry], "pems": {"digest": KEY}}).encode(),
        "cluster.json": json.dumps({"mockKey": "k" * 32, "cluster": "test"}).encode(),
        "tenants-01.json": b"{broken",
    }
    secrets.learn(content)
    return secrets


@pytest.mark.parametrize(
    "text",
    [
        'pass"wörd',
        json.dumps({"x": 'pass"wörd'}),
        repr('pass"wörd'),
        base64.b64encode('pass"wörd'.encode()).decode(),
        STORED,
        SERVER,
        "k" * 32,
        KEY.splitlines()[2],
    ],
)
def test_a_secret_is_found(text: str) -> None:
    with pytest.raises(SecretShownError, match="a log shows a secret: "):
        watched().check({"a log": f"something {text} else"})


def test_what_is_no_secret_is_not() -> None:
    watched().check({"a log": "acme app other test SCRAM-SHA-256 4096 c2FsdHNhbHQ= BEGIN PRIVATE KEY", "argv": ""})


def test_the_error_says_whose_secret_and_not_what_it_is() -> None:
    with pytest.raises(SecretShownError) as caught:
        watched().check({"argv": STORED})
    assert str(caught.value) == "argv shows a secret: tenants-00.json.tenants[0].users[1].verifiers"


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="6 characters"):
        Secrets().learn({"cluster.json": b'{"mockKey": "abc"}'})


_CONFIGURATION = {"tenants-00.json": b'{"tenants": [{"users": [{"passwords": ["open-sesame"]}]}]}'}


@pytest.mark.parametrize(
    ("on_start", "where"),
    [
        ("print('the password is open' + '-sesame', flush=True)", "the log"),
        ("print('the password is secret', 'open-sesame'[:0], flush=True)", "argv"),
    ],
)
def test_a_pooler_that_shows_a_secret_fails_its_test(on_start: str, where: str) -> None:
    process = stand_in(on_start)
    process.write(_CONFIGURATION)
    process.start()
    with pytest.raises(SecretShownError, match=f"{where} shows a secret"):
        process.stop()
    assert not process.is_running


def test_an_error_that_tells_a_secret_fails_its_test() -> None:
    WATCH.begin()
    WATCH.secrets.learn({"cluster.json": b'{"mockKey": "open-sesame"}'})
    WATCH.told.append("the key is open-sesame")
    with pytest.raises(SecretShownError, match="an error message shows a secret"):
        WATCH.check()
    WATCH.begin()


def test_the_secrets_of_a_real_configuration_are_all_known(database18: Database) -> None:
    entry = tenant(database18)
    admin = AdminUser(name="root", role="Admin", passwords=(SecretStr("admins-password"),))
    content = files([entry], cluster(mock_key=SecretStr("m" * 40), admin=AdminConsole(users=(admin,))))
    secrets = Secrets()
    secrets.learn(content)
    for secret in (database18.password, "admins-password", "m" * 40):
        with pytest.raises(SecretShownError):
            secrets.check({"x": secret})
