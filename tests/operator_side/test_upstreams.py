"""`spec.upstreams` of a PoolerCluster: rendered, told at once where a spelling tells, and opened for what runs here."""

from pathlib import Path

import pytest

from operator_side.manifest_values import cluster, load, secret, tenant, text
from pgweir_contract.models import Upstreams
from pgweir_contract.reading import parse_cluster
from pgweir_operator.check import check
from pgweir_operator.config_rendering import RenderResult, render_config
from pgweir_operator.local_manifests import BadManifests, render_paths


def rendered(host: str, **upstreams: list[str]) -> RenderResult:
    manifests = load(cluster(upstreams=upstreams), tenant(upstream={"host": host}), secret())
    return render_config(manifests.clusters[0], manifests.tenants, manifests.secrets)


def test_the_pooler_reads_what_the_cluster_says() -> None:
    result = rendered("db.example", allowedHosts=["*.example"], allowedCIDRs=["10.0.0.0/8"])
    assert result.rejected == {}
    found = parse_cluster(result.files["cluster.json"], strict=True).upstreams
    assert found == Upstreams(allowed_hosts=("*.example",), allowed_cidrs=("10.0.0.0/8",))


@pytest.mark.parametrize(
    ("host", "upstreams", "problem"),
    [
        ("127.0.0.1", {}, "is loopback, which the cluster's upstreams.allowedCIDRs does not name"),
        ("10.0.0.1", {"allowedCIDRs": ["192.168.0.0/16"]}, "is not in the cluster's upstreams.allowedCIDRs"),
        ("db.test", {"allowedHosts": ["*.example"]}, "is not among the cluster's upstreams.allowedHosts"),
    ],
)
def test_a_tenant_that_points_elsewhere_is_refused(host: str, upstreams: dict[str, list[str]], problem: str) -> None:
    expected = f"spec.upstream.host: UpstreamNotAllowed: {problem}"
    assert rendered(host, **upstreams).rejected == {"default/acme": [expected]}
    problems, _ = check({"a.yaml": text(cluster(upstreams=upstreams), tenant(upstream={"host": host}), secret())})
    assert problems == [f"a.yaml: document 2: {expected}"]


def test_what_runs_here_may_point_to_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"

    def allowed(upstreams: dict[str, list[str]], host: str) -> tuple[str, ...]:
        path.write_text(text(cluster(upstreams=upstreams), tenant(upstream={"host": host}), secret()))
        files = render_paths([path]).files
        return parse_cluster(files["cluster.json"], strict=True).upstreams.allowed_cidrs

    assert allowed({}, "127.0.0.1") == ("0.0.0.0/0", "::/0", "127.0.0.0/8", "::1/128")
    assert allowed({"allowedCIDRs": ["10.0.0.0/8"]}, "127.0.0.1") == ("10.0.0.0/8", "127.0.0.0/8", "::1/128")
    with pytest.raises(BadManifests, match="allowedHosts"):
        allowed({"allowedHosts": ["*.example"]}, "db.test")
