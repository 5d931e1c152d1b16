"""The JSON Schemas in the tree are what the models say, and accept what the models render."""

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import pytest

from contract.contract_values import tenant
from pgweir_contract.json_form import render
from pgweir_contract.models import Assignment, AssignmentsFile, ClusterFile, TenantsFile
from pgweir_contract.schema import MODELS, SCHEMA_DIR, drift, generate, main
from pgweir_contract.status import InstanceStatus, PoolStatus, Problem, Status, TenantStatus

STATUS = Status(
    version="0.1.0",
    boot_id="b",
    member="demo-0",
    pid=1,
    started_at="2026-01-01T00:00:00Z",
    state="Serving",
    revisions={"cluster.json": "abc"},
    problems=(Problem(where="tenants-00.json", problem="empty"),),
    tenants=(
        TenantStatus(
            tenant_id="acme",
            pools=(
                PoolStatus(
                    database="shop",
                    user="app",
                    clients=3,
                    waiting=1,
                    servers_active=1,
                    servers_idle=0,
                    servers_opening=1,
                    servers_closing=0,
                    servers_listening=1,
                    size=5,
                ),
            ),
        ),
    ),
    instances=(InstanceStatus(instance="h:5432", limit=20, connections=2),),
)


def test_the_tree_has_the_generated_schemas() -> None:
    assert drift(SCHEMA_DIR) == []


def test_drift_names_the_file_and_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], tmp_path / "schema") == 0
    assert main(["--check"], tmp_path / "schema") == 0
    path = tmp_path / "schema" / "tenants.json"
    path.write_text(path.read_text().replace('"maximum": 65535', '"maximum": 65536', 1))
    (tmp_path / "schema" / "status.json").unlink()
    (tmp_path / "schema" / "old.json").write_text("{}")
    assert main(["--check"], tmp_path / "schema") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "tenants.json: line " in lines[0]
    assert "65536" in lines[0]
    assert "status.json: is missing" in lines[1]
    assert "old.json: belongs to no model" in lines[2]


def test_another_argument_is_an_error() -> None:
    assert main(["--chekc"]) == 2


@pytest.mark.parametrize("name", MODELS)
def test_each_schema_is_valid_and_closed(name: str) -> None:
    schema = json.loads(generate()[name])
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tenants.json", TenantsFile(tenants=(tenant(),))),
        ("cluster.json", ClusterFile(cluster="default/demo")),
        ("assignments.json", AssignmentsFile(assignments=(Assignment(instance="h:1", owner="m", epoch=3),))),
        ("status.json", STATUS),
    ],
)
def test_what_is_rendered_fits_the_schema(
    name: str, file: TenantsFile | ClusterFile | AssignmentsFile | Status
) -> None:
    jsonschema.validate(json.loads(render(file)), json.loads(generate()[name]))


def test_defaults_of_durations_are_spelt_as_in_files() -> None:
    pool = json.loads(generate()["tenants.json"])["$defs"]["PoolSettings"]["properties"]
    assert pool["queueTimeout"]["default"] == "1m"
    assert pool["clientIdleTimeout"]["default"] == "0s"


def test_a_negative_count_is_no_status() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        InstanceStatus(instance="h:1", limit=-1, connections=0)
