"""Readers: what is rendered is read back; what is broken is refused alone, and none of its values shown."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.contract_values import PASSWORD, assignments, tenant, tenants
from pgweir_contract.json_form import render
from pgweir_contract.models import (
    AssignmentsFile,
    ClusterFile,
    ClusterLimits,
    InstanceLimit,
    Listener,
    Member,
    TenantEntry,
    TenantsFile,
)
from pgweir_contract.reading import (
    ContractError,
    Rejected,
    TenantsRead,
    merge_shards,
    open_tenants,
    parse_assignments,
    parse_cluster,
    parse_tenants,
    parse_version,
)


def tenants_json(*entries: Any, version: str = "1.0", **more: Any) -> bytes:
    return json.dumps({"version": version, "revision": "r1", "tenants": list(entries), **more}).encode()


def as_json(entry: TenantEntry) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(entry))
    return found


# --- round trips


@given(st.lists(tenants, max_size=3, unique_by=lambda t: t.tenant_id))
def test_tenants_survive_the_file(entries: list[TenantEntry]) -> None:
    data = render(TenantsFile(revision="abc", tenants=tuple(entries)))
    read = parse_tenants(data, strict=True)
    assert read.revision == "abc"
    assert list(read.tenants.values()) == entries
    assert read.rejected == {}
    assert render(TenantsFile(revision="abc", tenants=tuple(read.tenants.values()))) == data


@given(st.lists(assignments, max_size=5, unique_by=lambda a: a.instance))
def test_assignments_survive_the_file(entries: list[Any]) -> None:
    file = AssignmentsFile(revision="abc", assignments=tuple(entries))
    assert parse_assignments(render(file), strict=True) == file


@given(
    st.integers(1, 1_000_000),
    st.integers(1, 10_000_000),
    st.lists(st.integers(0, 65535), min_size=1, max_size=8, unique=True),
    st.integers(1, 10_000),
)
def test_the_cluster_survives_the_file(clients: int, ms: int, ports: list[int], connections: int) -> None:
    file = ClusterFile(
        cluster="default/demo",
        revision="0af3",
        listeners=tuple(Listener(name=f"l{i}", port=port, mode="Session") for i, port in enumerate(ports)),
        limits=ClusterLimits(max_clients=clients, login_timeout=ms / 1000),
        default_tenant="acme",
        instances=(InstanceLimit(host="::1", port=5432, max_connections=connections),),
        members=(Member(name="demo-0", ordinal=0, uid="u-1", address="10.0.0.1:6544"),),
    )
    assert parse_cluster(render(file), strict=True) == file


def test_rendering_is_canonical() -> None:
    entry = tenant()
    data = render(entry)
    assert data == (json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")) + "\n").encode()


# --- one bad tenant


def test_a_bad_tenant_is_refused_alone_under_its_id() -> None:
    bad = as_json(tenant("bad")) | {"upstream": {"host": "", "port": "5432"}}
    read = parse_tenants(tenants_json(as_json(tenant("one")), bad, as_json(tenant("two"))))
    assert list(read.tenants) == ["one", "two"]
    assert list(read.rejected) == ["bad"]
    assert [problem.partition(":")[0] for problem in read.rejected["bad"]] == [
        "upstream.host",
        "upstream.port",
    ]


@pytest.mark.parametrize(
    "entry", [None, 7, "x", [], {}, {"tenantId": 7}, {"tenantId": "a\nb"}, {"tenantId": "x" * 99}, {"tenantId": "Acme"}]
)
def test_a_tenant_without_a_usable_id_is_named_by_its_place(entry: object) -> None:
    read = parse_tenants(tenants_json(as_json(tenant("one")), entry))
    assert list(read.tenants) == ["one"]
    assert list(read.rejected) == ["tenants[1]"]
    assert read.has_unidentified


def test_a_bad_or_doubled_tenant_with_an_id_is_known() -> None:
    read = parse_tenants(tenants_json(as_json(tenant("one")), {"tenantId": "bad"}, as_json(tenant("one"))))
    assert list(read.rejected) == ["bad", "tenants[2]"]
    assert not read.has_unidentified


def test_of_two_tenants_with_one_id_the_first_counts() -> None:
    first, second = tenant("acme"), tenant("acme", paused=True)
    read = parse_tenants(tenants_json(as_json(first), as_json(second)))
    assert read.tenants == {"acme": first}
    assert read.rejected == {"tenants[1]": ["tenantId 'acme' is listed twice; the first one counts"]}


def test_a_good_double_does_not_take_the_place_of_a_bad_first() -> None:
    read = parse_tenants(tenants_json({"tenantId": "acme"}, as_json(tenant("acme"))))
    assert read.tenants == {}
    assert set(read.rejected) == {"acme", "tenants[1]"}


def test_tenants_are_validated_one_per_step() -> None:
    document = open_tenants(tenants_json(as_json(tenant("one")), {"tenantId": "two"}))
    steps = document.each()
    assert isinstance(next(steps), TenantEntry)
    refused = next(steps)
    assert isinstance(refused, Rejected)
    assert refused.key == "two"
    assert next(steps, None) is None


# --- shards


def test_of_an_id_in_two_files_the_first_file_counts() -> None:
    merged = merge_shards(
        {
            "tenants-01.json": TenantsRead(tenants={"acme": tenant("acme", paused=True), "b": tenant("b")}),
            "tenants-00.json": TenantsRead(tenants={"acme": tenant("acme")}),
        }
    )
    assert merged.tenants == {"acme": tenant("acme"), "b": tenant("b")}
    assert merged.rejected == {"tenants-01.json: acme": ["tenantId is already listed in tenants-00.json"]}


def test_problems_keep_their_tenants_name_and_places_their_files() -> None:
    merged = merge_shards(
        {
            "tenants-00.json": TenantsRead(rejected={"acme": ["broken"], "tenants[3]": ["no id"]}),
            "tenants-01.json": TenantsRead(tenants={"acme": tenant("acme")}, rejected={"b": ["broken"]}),
        }
    )
    assert merged.tenants == {}
    assert merged.rejected == {
        "acme": ["broken"],
        "tenants-00.json: tenants[3]": ["no id"],
        "b": ["broken"],
        "tenants-01.json: acme": ["tenantId is already listed in tenants-00.json"],
    }


# --- versions


def test_fields_of_a_newer_minor_version_are_ignored() -> None:
    newer = as_json(tenant("acme")) | {"colour": "red"}
    newer["pool"]["shape"] = {"round": True}
    read = parse_tenants(tenants_json(newer, version="1.7", legend="x"))
    assert read.tenants == {"acme": tenant("acme")}
    cluster = {"version": "1.7", "cluster": "c", "colour": "red", "limits": {"heat": 1}}
    assert parse_cluster(json.dumps(cluster).encode()).cluster == "c"
    file = {"version": "1.7", "assignments": [{"instance": "h:1", "owner": "a", "epoch": 1, "zone": "x"}]}
    assert parse_assignments(json.dumps(file).encode()).assignments[0].owner == "a"


def test_unknown_fields_of_our_own_version_are_typing_errors() -> None:
    misspelt = as_json(tenant("acme")) | {"requireTls": True}
    read = parse_tenants(tenants_json(misspelt, as_json(tenant("b"))))
    assert list(read.tenants) == ["b"]
    assert read.rejected == {"acme": ["requireTls: unknown field"]}
    with pytest.raises(ContractError, match=r"^colour: unknown field$"):
        parse_cluster(b'{"version":"1.0","cluster":"c","colour":"red"}')


def test_the_strict_reader_takes_no_unknown_field_of_any_version() -> None:
    newer = as_json(tenant("acme")) | {"colour": "red"}
    assert parse_tenants(tenants_json(newer, version="1.7"), strict=True).rejected == {
        "acme": ["colour: unknown field"]
    }
    with pytest.raises(ContractError, match="legend: unknown field"):
        parse_tenants(tenants_json(version="1.7", legend="x"), strict=True)


def test_pythons_own_names_are_no_names_in_a_file() -> None:
    entry = as_json(tenant("acme"))
    entry["tenant_id"] = entry.pop("tenantId")
    assert "tenant_id: unknown field" in parse_tenants(tenants_json(entry)).rejected["tenants[0]"]


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0"])
def test_an_unknown_major_version_is_refused(version: str) -> None:
    for parse in (parse_cluster, parse_tenants, parse_assignments):
        with pytest.raises(ContractError, match=r"version: major .* is unknown, this reader understands 1.x"):
            parse(json.dumps({"version": version}).encode())


@pytest.mark.parametrize("version", [None, 1, 1.0, "1", "1.", ".1", "1.0.0", "v1.0", "-1.0", "1.x", "1.00000", "١.0"])
def test_what_is_no_version_is_refused(version: object) -> None:
    with pytest.raises(ContractError, match=r'version: must be a text such as "1.0"'):
        parse_version(version)


def test_a_file_without_a_version_is_refused() -> None:
    with pytest.raises(ContractError, match=r"version: required field is missing"):
        parse_tenants(b'{"tenants":[]}')


# --- broken files


@given(st.data())
def test_a_truncated_file_is_refused_wherever_it_ends(data: st.DataObject) -> None:
    whole = tenants_json(as_json(tenant()))
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ContractError) as caught:
        parse_tenants(whole[:end])
    text = str(caught.value)
    assert text == "the file is empty" or ("not valid JSON" in text and "line 1 column" in text)
    assert PASSWORD not in text


@pytest.mark.parametrize("data", [b"[]", b"null", b'"x"', b"7"])
def test_only_an_object_is_a_file(data: bytes) -> None:
    with pytest.raises(ContractError, match="must be a JSON object"):
        parse_cluster(data)


@pytest.mark.parametrize("data", [b"", b" \n", b"\xff\xfe{}", b'{"version":NaN}', b"[" * 100_000, b"{} {}"])
def test_no_garbage_makes_a_traceback(data: bytes) -> None:
    with pytest.raises(ContractError):
        parse_tenants(data)


@given(st.binary(max_size=60))
def test_no_bytes_make_a_traceback(data: bytes) -> None:
    for parse in (parse_cluster, parse_tenants, parse_assignments):
        with pytest.raises(ContractError):
            parse(data)


def test_tenants_must_be_a_list() -> None:
    with pytest.raises(ContractError, match="tenants: must be a list"):
        parse_tenants(b'{"version":"1.0","tenants":{}}')


def test_a_file_of_assignments_names_an_instance_once() -> None:
    one = {"instance": "h:1", "owner": "a", "epoch": 1}
    with pytest.raises(ContractError, match="instance 'h:1' is listed twice"):
        parse_assignments(json.dumps({"version": "1.0", "assignments": [one, one]}).encode())
