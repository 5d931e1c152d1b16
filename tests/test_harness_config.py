"""The tests' own configuration directory: swapped in one step, valid for the contract."""

import json
from pathlib import Path

from harness.config import ConfigDirectory, cluster, files, revision, tenant
from harness.databases import Database
from pgweir_contract.models import ClusterFile, TenantsFile
from pgweir_contract.names import shard_of, tenants_file
from pgweir_operator.local_postgres import PostgresServer, embedded_bin_dir


def _database(name: str = "shop") -> Database:
    server = PostgresServer(embedded_bin_dir())  # never started: only its address is read
    server.port = 5432
    return Database(server, name, name, "geheim")


def test_tenants_land_in_their_shards_with_revisions() -> None:
    content = files([tenant(_database(), "acme", size=3), tenant(_database(), "bravo")])
    parsed = TenantsFile.model_validate_json(content[tenants_file(shard_of("acme"))])
    acme = next(entry for entry in parsed.tenants if entry.tenant_id == "acme")
    assert (acme.pool.size, acme.users[0].passwords[0].get_secret_value()) == (3, "geheim")
    parsed_cluster = ClusterFile.model_validate_json(content["cluster.json"])
    assert parsed_cluster.revision == revision(cluster())
    assert len(json.loads(content["cluster.json"])["revision"]) == 12


def test_a_write_swaps_all_files_in_one_step(tmp_path: Path) -> None:
    directory = ConfigDirectory(tmp_path / "config")
    directory.write({"a.json": b"1", "b.json": b"1"})
    first = (directory.path / "..data").readlink()
    directory.write({"b.json": b"2", "c.json": b"2"})
    visible = {path.name: path.read_bytes() for path in directory.path.glob("[!.]*")}
    assert visible == {"b.json": b"2", "c.json": b"2"}
    assert (directory.path / "b.json").readlink() == Path("..data/b.json")
    assert (directory.path / "..data").readlink() != first
    assert not (directory.path / first).exists()
