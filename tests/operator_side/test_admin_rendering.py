"""Admins of the console: from the PoolerCluster and a Secret of its namespace into `cluster.json`."""

from typing import Any

import pytest

from operator_side.manifest_values import PASSWORD, cluster, load, secret, tenant
from pgweir_contract.models import AdminConsole
from pgweir_contract.reading import parse_cluster
from pgweir_operator.check import check
from pgweir_operator.config_rendering import RenderResult, render_config
from pgweir_operator.resources import ManifestError

JANE = {"name": "jane", "role": "Admin", "passwordSecretRef": {"name": "acme-app"}}


def rendered(*documents: Any) -> RenderResult:
    manifests = load(*documents)
    return render_config(manifests.clusters[0], manifests.tenants, manifests.secrets)


def admin_of(result: RenderResult) -> AdminConsole:
    return parse_cluster(result.files["cluster.json"], strict=True).admin


def test_an_admin_gets_the_password_of_the_secret() -> None:
    result = rendered(cluster(admin={"users": [JANE, JANE | {"name": "grafana", "role": "Stats"}]}), secret())
    assert result.problems == []
    jane, grafana = admin_of(result).users
    assert (jane.name, jane.role, grafana.name, grafana.role) == ("jane", "Admin", "grafana", "Stats")
    assert jane.passwords[0].get_secret_value() == PASSWORD


def test_without_admins_there_is_no_console() -> None:
    assert admin_of(rendered(cluster())).users == ()


@pytest.mark.parametrize(
    ("secrets", "problem"),
    [
        ([], "SecretNotFound: there is no Secret default/acme-app"),
        ([secret(metadata={"name": "acme-app"})], "needs the label pgweir.dev/credentials"),
        ([secret(stringData={"other": "x"})], "SecretKeyMissing: Secret default/acme-app has no key 'password'"),
        ([secret(metadata={"name": "acme-app", "namespace": "acme"})], "SecretNotFound"),
    ],
)
def test_an_admin_without_a_usable_secret_is_left_out_and_the_others_stay(secrets: list[Any], problem: str) -> None:
    lee = {"name": "lee", "role": "Stats", "passwordSecretRef": {"name": "lee"}}
    good = secret("lee")
    result = rendered(cluster(admin={"users": [JANE, lee]}), good, *secrets)
    (found,) = result.problems
    assert found.startswith("spec.admin.users[0].passwordSecretRef: ")
    assert problem in found
    assert [user.name for user in admin_of(result).users] == ["lee"]


def test_check_shows_what_is_wrong_with_an_admin() -> None:
    import yaml

    text = yaml.safe_dump_all([cluster(admin={"users": [JANE]}), tenant(), secret("other")])
    problems, _ = check({"all.yaml": text})
    assert "all.yaml: document 1: spec.admin.users[0].passwordSecretRef: SecretNotFound" in "\n".join(problems)


@pytest.mark.parametrize(
    ("users", "problem"),
    [
        ([JANE, JANE], "admin user 'jane' is listed twice"),
        ([JANE | {"name": "jane.acme"}], "an admin's name cannot hold a dot"),
        ([JANE | {"role": "Root"}], "role"),
        ([{"name": "jane", "passwordSecretRef": {"name": "acme-app"}}], "role: required field is missing"),
        ([JANE | {"password": PASSWORD}], "password: unknown field"),
    ],
)
def test_bad_admins_are_refused_without_their_values(users: list[Any], problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(cluster(admin={"users": users}))
    assert problem in str(caught.value)
    assert PASSWORD not in str(caught.value)
