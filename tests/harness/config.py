"""The pooler's configuration as tests write it: models by keyword, and a directory swapped like a Secret.

kubelet keeps the files of a mounted Secret in a folder named after the time, points the link `..data` at it,
and each file is a link to `..data/FILE`. A change makes a new folder and renames a new link over `..data`:
readers see all old files or all new ones.
"""

import hashlib
import itertools
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from harness.databases import Database as RealDatabase
from pgweir_contract import names
from pgweir_contract.json_form import ContractModel, render
from pgweir_contract.models import (
    ClusterFile,
    ClusterLimits,
    Database,
    PoolSettings,
    TenantEntry,
    TenantsFile,
    Upstream,
    Upstreams,
    UpstreamTls,
    User,
)
from pgweir_contract.pems import pem_digest
from pgweir_pooler.net.upstream_guard import UpstreamGuard

# Tests end with clients still connected; nobody wants to wait a minute for them.
DRAIN_TIMEOUT_S = 2.0


def tenant(database: RealDatabase, tenant_id: str = "acme", *, max_connections: int = 60, **pool: Any) -> TenantEntry:
    """A tenant with one database and one user; the keywords are those of PoolSettings (size=10, …)."""
    return TenantEntry(
        tenant_id=tenant_id,
        upstream=Upstream(
            host=database.server.host,
            port=database.server.port,
            max_connections=max_connections,
            tls=UpstreamTls(mode="Disable"),
        ),
        databases=(Database(name=database.name),),
        users=(User(name=database.user, passwords=(SecretStr(database.password),)),),
        pool=PoolSettings(**pool),
    )


# Everywhere, loopback among it.
ANYWHERE = Upstreams(allowed_cidrs=("0.0.0.0/0", "::/0", "127.0.0.0/8", "::1/128"))


def loopback() -> UpstreamGuard:
    """A guard for parts of a pooler that a test puts together itself."""
    guard = UpstreamGuard()
    guard.rules = ANYWHERE
    return guard


def cluster(**fields: Any) -> ClusterFile:
    """`cluster.json` of a test; the keywords are those of ClusterFile (limits=…, default_tenant=…)."""
    limits = ClusterLimits(drain_timeout=DRAIN_TIMEOUT_S)
    return ClusterFile(**{"cluster": "test", "limits": limits, "upstreams": ANYWHERE, **fields})


def files(
    tenants: Sequence[TenantEntry], cluster_file: ClusterFile | None = None, pems: Sequence[str] = ()
) -> dict[str, bytes]:
    """The whole directory: file name to content, tenants in their shards, revisions filled in, PEM texts with them."""
    texts = {pem_digest(text): SecretStr(text) for text in pems}
    shards: defaultdict[int, list[TenantEntry]] = defaultdict(list)
    for entry in tenants:
        shards[names.shard_of(entry.tenant_id)].append(entry)
    content = {names.CLUSTER_FILE: _with_revision(cluster_file or cluster())}
    for shard, entries in shards.items():
        content[names.tenants_file(shard)] = _with_revision(TenantsFile(tenants=tuple(entries), pems=texts))
    return content


def revision(model: ClusterFile | TenantsFile) -> str:
    """What `files` writes into the model's `revision`, and a pooler that applied it reports."""
    return hashlib.blake2b(render(model), digest_size=6).hexdigest()


def _with_revision(model: ClusterFile | TenantsFile) -> bytes:
    stamped: ContractModel = model.model_copy(update={"revision": revision(model)})
    return render(stamped)


class ConfigDirectory:
    """A directory that looks and changes like a Secret mounted by kubelet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._counter = itertools.count()
        path.mkdir(parents=True, exist_ok=True)

    def write(self, content: Mapping[str, bytes]) -> None:
        """Replaces all files in one step; files that `content` does not name disappear."""
        stamp = time.strftime("..%Y_%m_%d_%H_%M_%S", time.gmtime())
        folder = self.path / f"{stamp}.{next(self._counter):010d}"
        folder.mkdir(mode=0o755)
        for name, data in content.items():
            (folder / name).write_bytes(data)
        data_link = self.path / "..data"
        old = data_link.readlink() if data_link.is_symlink() else None
        new_link = self.path / "..data_tmp"
        new_link.symlink_to(folder.name)
        new_link.replace(data_link)
        for name in content:
            link = self.path / name
            if not link.is_symlink():
                link.symlink_to(Path("..data") / name)
        for link in self.path.iterdir():
            if not link.name.startswith("..") and link.name not in content:
                link.unlink()
        if old is not None:
            shutil.rmtree(self.path / old)
