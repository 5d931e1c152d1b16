"""Files of ours that others can reach are named; closed folders, other people's files and mounts are not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config import ConfigDirectory, files, tenant
from harness.databases import Database
from harness.pooler import Pooler
from harness.waiting import until
from pgweir_pooler.file_modes import exposed, wide_files
from security.places import log_lines


@pytest.mark.parametrize(
    ("file", "folders", "bits"),
    [
        (0o100600, [0o755], 0),
        (0o100644, [0o755, 0o755], 0o044),
        (0o100640, [0o755], 0o040),
        (0o100604, [0o755], 0o004),
        (0o100644, [0o755, 0o700, 0o755], 0),
        (0o100644, [0o750], 0o040),
        (0o100640, [0o711], 0o040),
        (0o100640, [0o701], 0o040),
        (0o100660, [0o755], 0o060),
    ],
)
def test_what_the_way_to_a_file_leaves_of_its_mode(file: int, folders: list[int], bits: int) -> None:
    assert exposed(file, folders) == bits


def test_files_are_looked_at_through_their_links(short_dir: Path) -> None:
    config = ConfigDirectory(short_dir / "config")
    config.write({"cluster.json": b"{}", "tenants-00.json": b"{}"})
    (config.path / "tenants-00.json").chmod(0o600)
    (config.path / "cluster.json").chmod(0o640)
    [(name, problem)] = wide_files(config.path, ["cluster.json", "tenants-00.json", "tenants-01.json"])
    assert name == "cluster.json"
    assert "(mode 0640)" in problem
    config.path.chmod(0o700)
    assert wide_files(config.path, ["cluster.json"]) == []


def test_mounts_and_files_of_others_are_passed_over(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short_dir / "cluster.json").write_bytes(b"{}")
    (short_dir / "cluster.json").chmod(0o644)
    assert wide_files(short_dir, ["cluster.json"])
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "ismount", lambda _: True)
        assert wide_files(short_dir, ["cluster.json"]) == []
    other = os.getuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert wide_files(short_dir, ["cluster.json"]) == []


async def test_a_pooler_warns_once_in_log_and_status(pooler: Callable[..., Pooler], database18: Database) -> None:
    entry = tenant(database18)
    process = pooler(entry)
    assert process.status()["warnings"] == []
    process.log_path.parent.chmod(0o755)  # the harness had closed it
    for count in (2, 3):
        process.write(
            files([entry.model_copy(update={"parameters": {}, "pool": entry.pool.model_copy(update={"size": count})})])
        )
        await until(lambda count=count: process.metrics()["pgweir_config_reloads_total"] == count, "applied")  # type: ignore[misc]
    warnings = process.status()["warnings"]
    assert len(warnings) == 2
    assert warnings[0]["where"] == "cluster.json"
    assert "open to other users" in warnings[0]["problem"]
    assert len(log_lines(process, "file with wide permissions")) == 2
    process.log_path.parent.chmod(0o700)
