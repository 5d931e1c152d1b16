"""The console's users in `cluster.json`."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from pgweir_contract.admin import AdminUser
from pgweir_contract.json_form import render
from pgweir_contract.models import AdminConsole, ClusterFile
from pgweir_contract.reading import ContractError, parse_cluster
from pgweir_contract.support import unsupported_cluster

VERIFIER = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$" + "A" * 43 + "=:" + "B" * 43 + "="


def read(*users: Any) -> ClusterFile:
    return parse_cluster(json.dumps({"version": "1.0", "cluster": "c", "admin": {"users": users}}).encode())


def test_a_file_is_read_as_it_was_rendered_and_shows_no_secret() -> None:
    admin = AdminConsole(
        users=(
            AdminUser(name="jane", role="Admin", passwords=(SecretStr("hunter2"),)),
            AdminUser(name="grafana", role="Stats", verifiers=(SecretStr(VERIFIER),)),
        )
    )
    file = ClusterFile(cluster="c", admin=admin)
    assert parse_cluster(render(file), strict=True) == file
    assert "hunter2" not in repr(file)
    assert unsupported_cluster(file) == []


@pytest.mark.parametrize(
    ("user", "problem"),
    [
        ({"name": "jane", "role": "Admin"}, "a user needs a password or a verifier"),
        ({"name": "jane", "role": "Admin", "verifiers": ["x"]}, "a verifier has the form"),
        ({"name": "jane", "passwords": ["hunter2"]}, "admin.users[0].role: required field is missing"),
        ({"name": "a.b", "role": "Stats", "passwords": ["hunter2"]}, "cannot hold a dot"),
    ],
)
def test_what_makes_no_sense_is_refused(user: dict[str, Any], problem: str) -> None:
    with pytest.raises(ContractError) as caught:
        read(user)
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_name_counts_once() -> None:
    user = {"name": "jane", "role": "Admin", "passwords": ["hunter2"]}
    with pytest.raises(ContractError, match="admin user 'jane' is listed twice"):
        read(user, user)


def test_an_admin_may_have_several_secrets_at_a_time_and_none_of_md5() -> None:
    file = read({"name": "jane", "role": "Admin", "passwords": ["hunter2"], "verifiers": [VERIFIER]})
    assert unsupported_cluster(file) == []
    with pytest.raises(ContractError, match=r"verifiers\[0\]: a verifier has the form"):
        read({"name": "jane", "role": "Admin", "verifiers": ["md5" + "0" * 32]})
