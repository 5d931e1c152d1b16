"""The command `pgweir`: what it starts, and `check` from end to end, as a person sees it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pgweir_cli import main as cli
from pgweir_contract.names import tenants_file

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
PASSWORD = "open-sesame-4711"


def pgweir(*arguments: str | Path) -> tuple[int, list[str]]:
    command = [sys.executable, "-P", "-m", "pgweir_cli.main", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert PASSWORD not in run.stdout
    return run.returncode, run.stdout.splitlines()


def entry(tenant_id: str = "acme", **changes: Any) -> dict[str, Any]:
    users = [{"name": "app", "passwords": [PASSWORD]}]
    plain = {"tenantId": tenant_id, "upstream": {"host": "h"}, "databases": [{"name": "shop"}], "users": users}
    return plain | changes


def write(folder: Path, number: int, *entries: Any, **more: Any) -> Path:
    path = folder / tenants_file(number)
    path.write_text(json.dumps({"version": "1.0", "revision": "r", "tenants": entries, **more}))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "cluster.json").write_text('{"version":"1.0","cluster":"c","defaultTenant":"acme"}')
    write(tmp_path, 0, entry())
    (tmp_path / "assignments-00.json").write_text('{"version":"1.0"}')
    return tmp_path


# --- starting the sides


@pytest.mark.parametrize(("name", "module"), [("pooler", "pgweir_pooler"), ("local", "pgweir_operator.local")])
def test_a_side_gets_all_arguments_as_they_are(monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, arguments: became.append(arguments))
    given = ["--config-dir", "x", "-f", "a b", "--help", "--once"]
    result = CliRunner().invoke(cli.main, [name, *given])
    assert result.exit_code == 0, result.output
    assert became == [[sys.executable, "-P", "-m", module, *given]]


def test_the_version_names_the_contract() -> None:
    code, (line,) = pgweir("version")
    assert code == 0
    assert line.startswith("pgweir ")
    assert line.endswith(", contract 1.0")


def test_the_command_line_imports_neither_side() -> None:
    code = "import sys, pgweir_cli.main; print([m for m in sys.modules if m.startswith(('pgweir_p', 'pgweir_o'))])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- check


def test_the_quickstart_is_in_order() -> None:
    assert pgweir("check", QUICKSTART) == (0, ["OK: 2 files, 1 clusters, 2 tenants, 2 secrets"])


def test_a_good_directory_is_counted(config: Path) -> None:
    assert pgweir("check", config) == (0, ["OK: 3 files, 1 tenants"])


def test_a_mounted_volumes_links_are_no_files_of_their_own(config: Path) -> None:
    (config / "..2026").mkdir()
    (config / "..data").symlink_to("..2026")
    assert pgweir("check", config) == (0, ["OK: 3 files, 1 tenants"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"version":"1.0","tenants":[{"tenantId"', "not valid JSON (truncated?): EOF while parsing"),
        ("", "the file is empty"),
        ('{"version":"2.0"}', "version: major 2 is unknown"),
        ('{"version":"1.0","x":1}', "x: unknown field"),
        (json.dumps({"version": "1.0", "tenants": [entry(x=1)]}), "tenants[acme].x: unknown field"),
        (json.dumps({"version": "1.3", "tenants": [entry(x=1)]}), "tenants[acme].x: unknown field"),
        (
            json.dumps({"version": "1.0", "tenants": [entry(pool={"size": "5"})]}),
            "tenants[acme].pool.size: Input should be a valid integer",
        ),
        (
            json.dumps({"version": "1.0", "tenants": [entry(users=[{"name": "a", "passwords": PASSWORD}])]}),
            "tenants[acme].users[0].passwords: must be a list",
        ),
        (
            json.dumps({"version": "1.0", "tenants": [entry(users=[{"name": "a", "passwords": [""]}])]}),
            "tenants[acme].users[0].passwords[0]: must have at least 1 character",
        ),
        (
            json.dumps({"version": "1.0", "tenants": [entry("b"), entry("b")]}),
            "tenants[1]: tenantId 'b' is listed twice; the first one counts",
        ),
        (
            json.dumps({"version": "1.0", "tenants": [entry("b", parameters={"a": "b"})]}),
            "tenants[b].parameters: not supported yet",
        ),
        (json.dumps({"version": "1.0", "tenants": ["x"]}), "tenants[0]: must be a mapping"),
    ],
)
def test_each_mistake_is_one_line_with_file_and_path(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "tenants-03.json"
    path.write_text(text)
    code, lines = pgweir("check", path)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: {problem}")


def test_a_tenant_in_two_files_is_named(config: Path) -> None:
    path = write(config, 1, entry())
    problem = f"{path}: tenants[acme]: tenantId is already listed in {config / 'tenants-00.json'}"
    assert pgweir("check", config) == (2, [problem])


def test_an_instance_in_two_files_is_named(config: Path) -> None:
    text = '{"version":"1.0","assignments":[{"instance":"h:1","owner":"m","epoch":1}]}'
    for number in (0, 1):
        (config / f"assignments-{number:02d}.json").write_text(text)
    code, lines = pgweir("check", config)
    assert (code, len(lines)) == (2, 1)
    assert "assignments-01.json: assignments[0].instance: is already listed in" in lines[0]


def test_a_default_tenant_must_exist_and_the_cluster_file_too(config: Path) -> None:
    write(config, 0, entry("other"))
    assert pgweir("check", config) == (2, [f"{config}/cluster.json: defaultTenant: there is no such tenant"])
    (config / "cluster.json").unlink()
    assert pgweir("check", config) == (2, [f"{config}: cluster.json is missing"])


def test_a_directory_of_neither_kind_is_named(tmp_path: Path) -> None:
    problem = f"{tmp_path}: holds neither configuration (*.json) nor manifests (*.yaml)"
    assert pgweir("check", tmp_path) == (2, [problem])
    (tmp_path / "README").write_text("x")
    assert pgweir("check", tmp_path) == (2, [problem])


def test_files_that_are_not_ours_or_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "tenants-16.json").write_text("{}")
    code, lines = pgweir("check", tmp_path / "tenants-16.json", tmp_path / "gone.json", tmp_path / "gone.yaml")
    assert code == 2
    assert len(lines) == 3
    assert "is no file of the contract" in lines[0]
    assert lines[1].endswith("gone.json: cannot be read: No such file or directory")
    assert lines[2].endswith("gone.yaml: cannot be read: No such file or directory")


def test_manifests_are_checked_together(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text((QUICKSTART / "tenants.yaml").read_text().replace("name: acme-app\n  labels", "name: x\n  labels"))
    code, lines = pgweir("check", path)
    assert code == 2
    assert lines == [
        f"{path}: document {n}: spec.clusterRef: ClusterNotFound: there is no PoolerCluster default/demo"
        for n in (1, 3)
    ]
    code, lines = pgweir("check", QUICKSTART / "poolercluster.yaml", path)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(f"{path}: document 1: spec.users[0].passwordSecretRef: SecretNotFound: ")


@pytest.mark.parametrize(("text", "problem"), [("a: [", "not valid YAML"), ("", "no PoolerCluster and no Tenant")])
def test_a_broken_or_empty_manifest_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(text)
    code, lines = pgweir("check", path)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(f"{path}: ")
    assert problem in lines[0]


def test_text_of_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert pgweir("check", path) == (2, [f"{path}: is not UTF-8 text"])


def test_configuration_and_manifests_in_one_call_show_only_what_is_wrong(config: Path) -> None:
    code, lines = pgweir("check", QUICKSTART, config)
    assert (code, len(lines)) == (0, 2)
    (config / "cluster.json").unlink()
    assert pgweir("check", QUICKSTART, config) == (2, [f"{config}: cluster.json is missing"])


def test_check_needs_a_path() -> None:
    result = CliRunner().invoke(cli.main, ["check"])
    assert result.exit_code == 2
    assert "Missing argument 'PATH...'" in result.output
