"""The mounted directory: read at start, read again whenever it changes, applied while clients are served.

kubelet swaps the link `..data`, so a change is seen as a whole; a plain directory works too. inotify tells us, and
a look every POLL_S seconds makes up for an event that was missed. Files whose bytes did not change are not parsed
again.

What is bad keeps its last good state: a file that cannot be read keeps all of its tenants, a tenant that is bad in
a good file keeps itself, and a file with an entry that may be any tenant's removes nobody. All of it stands in
`problems`, and in the log once. Work is done in slices: after SLICE_S the event loop gets its turn.
"""

import asyncio
import gc
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import structlog
from inotify_simple import INotify, flags

from pgweir_contract.models import ClusterFile, TenantEntry
from pgweir_contract.names import CLUSTER_FILE, SHARDS, assignments_file, tenants_file
from pgweir_contract.reading import (
    ContractError,
    Rejected,
    TenantsRead,
    merge_shards,
    open_tenants,
    parse_assignments,
    parse_cluster,
)
from pgweir_contract.support import unsupported, unsupported_cluster
from pgweir_pooler.directory import Directory
from pgweir_pooler.file_modes import wide_files
from pgweir_pooler.telemetry import ProcessCounters

log = structlog.get_logger()

POLL_S = 5.0
SETTLE_S = 0.02  # after the first event: the rest of what is being written
SLICE_S = 0.002  # of at most 5 ms that the loop may be held; parsing one tenant comes on top

_TENANT_FILES = tuple(tenants_file(i) for i in range(SHARDS))
_ASSIGNMENT_FILES = tuple(assignments_file(i) for i in range(SHARDS))

# In place of a digest: whatever is read next is a change.
_NOT_READ = b""

_WATCHED = flags.CREATE | flags.MOVED_TO | flags.CLOSE_WRITE | flags.DELETE | flags.MOVED_FROM | flags.ATTRIB

Problem = tuple[str, str]  # where, what


class MountedFiles(Protocol):
    """Files that cluster.json names and that are looked at whenever the configuration is."""

    @property
    def folders(self) -> set[Path]:
        """Where they lie."""
        ...

    def look(self) -> Mapping[str, list[str]]:
        """Takes over what has changed; what is wrong with it, by file."""
        ...


class _Slices:
    """Lets the event loop run when a slice of work has taken long enough."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def pause(self) -> None:
        if time.perf_counter() - self._began > SLICE_S:
            await asyncio.sleep(0)
            self._began = time.perf_counter()


class ConfigFiles:
    """Keeps a `Directory` equal to a folder of contract files."""

    def __init__(
        self,
        path: Path,
        directory: Directory,
        counters: ProcessCounters,
        on_cluster: Callable[[ClusterFile], None],
        mounted: MountedFiles | None = None,
    ) -> None:
        self._path = path
        self._directory = directory
        self._counters = counters
        self._on_cluster = on_cluster  # may raise ContractError
        self._mounted = mounted
        self._mounted_problems: dict[str, list[str]] = {}
        self._looks: dict[str, tuple[int, int, int, int]] = {}  # inode, size and time of each file as it was read last
        self._digests: dict[str, bytes] = {}  # of each file as it was applied last
        self._shards: dict[str, TenantsRead] = {}  # the last good reading of each tenants file
        self._file_problems: dict[str, list[str]] = {}  # of files as a whole
        self._tenant_problems: dict[str, list[str]] = {}
        self._read_revisions: dict[str, str] = {}  # of the last good reading of each file
        self.revisions: dict[str, str] = {}  # applied, by file: these once all of them are
        self.warnings: list[Problem] = []  # of the last configuration that was applied
        self._lock = asyncio.Lock()

    @property
    def problems(self) -> list[Problem]:
        """What is wrong now: (file or tenant, what)."""
        return [(where, what) for where, whats in self._all_problems() for what in whats]

    def _all_problems(self) -> Iterator[tuple[str, list[str]]]:
        yield from self._file_problems.items()
        yield from self._mounted_problems.items()
        yield from ((f"tenant {key}", whats) for key, whats in self._tenant_problems.items())

    async def load(self) -> None:
        """Reads what has changed and applies it. Never raises for bad content: see `problems`."""
        async with self._lock:
            before = set(self.problems)
            is_start = not self._digests
            # The collector would walk thousands of new models in one go (20 ms with 5,000 tenants), to find nothing:
            # nothing here is cyclic. `freeze` spares it those that stay.
            gc.disable()
            try:
                changed = await self._apply_changes()
                if changed:
                    gc.freeze()
            finally:
                gc.enable()
            problems = set(self.problems)
            if not changed and is_start:  # there is nothing yet: the start fails, and says why
                return
            for where, what in sorted(problems - before):
                self._counters.reload_failures += 1
                log.error("configuration problem", where=where, problem=what)
            if not changed:
                return
            self._look_at_modes()
            log.info(
                "configuration applied",
                files=sorted(changed),
                tenants=len(self._directory.tenants),
                problems=len(problems),
            )

    def _look_at_modes(self) -> None:
        before = {where for where, _ in self.warnings}
        self.warnings = wide_files(self._path, (CLUSTER_FILE, *_TENANT_FILES))
        for where, what in self.warnings:
            if where not in before:
                log.warning("file with wide permissions", file=where, problem=what)

    async def _apply_changes(self) -> dict[str, bytes | None]:
        slices = _Slices()
        changed = await self._changed_files(slices)
        if changed:
            for name in sorted(changed):
                await self._read(name, changed[name], slices)
            await self._apply_tenants(slices)
            self.revisions = dict(self._read_revisions)
            self._counters.reloads += 1
        if self._mounted is not None:
            self._mounted_problems = dict(self._mounted.look())
        return changed

    async def watch(self) -> None:
        """Loads again at every change, until cancelled."""
        loop = asyncio.get_running_loop()
        is_changed = asyncio.Event()
        # No library that watches in a thread: a second thread makes each system call dearer (about 6 % of a query).
        with INotify(nonblocking=True) as notify:

            def drain() -> None:
                notify.read(timeout=0)
                is_changed.set()

            loop.add_reader(notify.fd, drain)
            try:
                while True:
                    for folder in {self._path, *(self._mounted.folders if self._mounted is not None else ())}:
                        try:
                            notify.add_watch(folder, _WATCHED)  # again each time: it may be another one now
                        except OSError:
                            pass  # it is not there; the next look says so
                    try:
                        async with asyncio.timeout(POLL_S):
                            await is_changed.wait()
                        await asyncio.sleep(SETTLE_S)
                    except TimeoutError:
                        pass
                    is_changed.clear()
                    await self.load()
            finally:
                loop.remove_reader(notify.fd)

    async def _changed_files(self, slices: _Slices) -> dict[str, bytes | None]:
        """The files whose content differs from what was applied, None for one that is gone."""
        changed: dict[str, bytes | None] = {}
        digests: dict[str, bytes] = {}
        for name in (CLUSTER_FILE, *_TENANT_FILES, *_ASSIGNMENT_FILES):
            await slices.pause()
            path = self._path / name
            try:
                stat = path.stat()
                looks = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
                if name in self._digests and self._looks.get(name) == looks and self._digests[name] != _NOT_READ:
                    digests[name] = self._digests[name]
                    continue
                content = path.read_bytes()
                self._looks[name] = looks
            except OSError as error:
                if not isinstance(error, FileNotFoundError) and name != CLUSTER_FILE:
                    # It is there: its tenants stay, and the next look tries again.
                    self._file_problems[name] = [f"the file cannot be read: {error.strerror}"]
                    digests[name] = _NOT_READ
                elif name in self._digests or name == CLUSTER_FILE:
                    changed[name] = None
                continue
            digests[name] = hashlib.blake2b(content, digest_size=16).digest()
            if self._digests.get(name) != digests[name]:
                changed[name] = content
        if changed.get(CLUSTER_FILE, b"") is None:
            # Without its main file the folder is not a configuration (a volume not mounted yet): nothing is taken away,
            # and nothing counts as seen.
            self._file_problems[CLUSTER_FILE] = ["the file is missing or cannot be read"]
            self._digests[CLUSTER_FILE] = _NOT_READ
            return {}
        self._digests = digests
        return changed

    async def _read(self, name: str, content: bytes | None, slices: _Slices) -> None:
        try:
            if content is None:
                self._shards.pop(name, None)
                self._read_revisions.pop(name, None)
            elif name == CLUSTER_FILE:
                self._read_cluster(content)
            elif name in _TENANT_FILES:
                read = await self._read_tenants(content, slices)
                _keep_unmentioned(read, self._shards.get(name))
                self._shards[name] = read
                self._read_revisions[name] = self._shards[name].revision
            else:
                self._read_revisions[name] = parse_assignments(content).revision
        except ContractError as error:
            self._file_problems[name] = error.problems
        else:
            self._file_problems.pop(name, None)
        await slices.pause()

    def _read_cluster(self, content: bytes) -> None:
        cluster = parse_cluster(content)
        problems = unsupported_cluster(cluster)
        if problems:
            raise ContractError(*problems)
        self._on_cluster(cluster)
        self._directory.limit_instances(cluster.instances)
        self._read_revisions[CLUSTER_FILE] = cluster.revision

    async def _read_tenants(self, content: bytes, slices: _Slices) -> TenantsRead:
        document = open_tenants(content)
        read = TenantsRead(document.revision, pems=document.pems.texts)
        for outcome in document.each():
            if isinstance(outcome, Rejected):
                read.refuse(outcome)
            elif problems := unsupported(outcome):
                read.rejected[outcome.tenant_id] = problems
            else:
                read.tenants[outcome.tenant_id] = outcome
            await slices.pause()
        return read

    async def _apply_tenants(self, slices: _Slices) -> None:
        merged = merge_shards(self._shards)
        self._tenant_problems = merged.rejected
        directory = self._directory
        directory.pems |= merged.pems
        for entry in merged.tenants.values():
            self._put(entry)
            await slices.pause()
        for tenant_id in [x for x in directory.tenants if x not in merged.tenants and x not in merged.rejected]:
            log.info("tenant removed", tenant=tenant_id)
            directory.remove(tenant_id)
            await slices.pause()
        directory.forget_pems()

    def _put(self, entry: TenantEntry) -> None:
        directory = self._directory
        directory.put(entry)
        directory.warm(directory.tenants[entry.tenant_id])


def _keep_unmentioned(read: TenantsRead, previous: TenantsRead | None) -> None:
    """An entry without a usable id may be any of the file's tenants, so such a file removes nobody."""
    if previous is None or not read.has_unidentified:
        return
    for tenant_id in [*previous.tenants, *previous.rejected]:
        if "[" not in tenant_id and tenant_id not in read.tenants and tenant_id not in read.rejected:
            read.rejected[tenant_id] = ["its file has an entry without a usable tenantId, perhaps this one's"]
