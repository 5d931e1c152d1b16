"""Manifests as a running process: started, kept equal to the files, stopped.

Always true: the configuration directory holds a rendering in which nothing was wrong. A change with a problem in it
is reported and changes nothing.
"""

import asyncio
import http.client
import secrets
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import watchfiles
from pydantic import SecretStr

from pgweir_contract.models import TenantEntry
from pgweir_contract.names import CONTROL_PORT, HTTP_PORT
from pgweir_operator.credential_rendering import next_end
from pgweir_operator.local_config_dir import ConfigDirectory
from pgweir_operator.local_manifests import Adapt, BadManifests, Rendered, render_paths
from pgweir_operator.local_pooler import LocalPooler
from pgweir_operator.local_postgres import LocalPostgresError

APPLY_TIMEOUT_S: Final = 15.0  # the pooler looks by itself every 5 s should it miss the event
_APPLY_POLL_S: Final = 0.05
_LOOK_MS: Final = 5000  # how often it is looked for overlaps that are over

BeforeWrite = Callable[[list[TenantEntry]], Awaitable[None]]
Say = Callable[[str], None]


class LocalCluster:
    """One pooler process over manifests.

    `before_write` is called with all tenants before their configuration is written: the demo makes their
    databases there. `say` gets lines for the user.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        say: Say,
        *,
        adapt: Adapt | None = None,
        before_write: BeforeWrite | None = None,
    ) -> None:
        """Renders; raises BadManifests."""
        self._paths = paths
        self._say = say
        self._adapt = adapt
        self._before_write = before_write
        self._reported: list[str] = []  # the problems that stand now, so that they are shown once
        self._mock_key = SecretStr(secrets.token_urlsafe(32))  # the same in all renderings
        self.rendered = render_paths(paths, adapt, self._mock_key)
        self._folder = Path(tempfile.mkdtemp(prefix="pgweir-local-"))  # 0700; close() removes it
        spec = self.rendered.cluster.spec
        self._listeners = spec.listeners
        self._config = ConfigDirectory(self._folder / "config")
        ports = {listener.name: listener.port for listener in spec.listeners}
        ports |= {"http": HTTP_PORT, "control": CONTROL_PORT}
        self.pooler = LocalPooler(self._config.path, self._folder / "pooler.log", ports, spec.drain.timeout)

    async def start(self) -> None:
        """Writes the configuration, starts the process and waits until it is ready. Raises PoolerFailed."""
        await self._write(self.rendered)
        self.pooler.start()
        for note in (*self.rendered.notes, *self.pooler.notes):
            self._say(f"note: {note}")
        await self.pooler.wait_ready()

    async def follow(self) -> None:
        """Applies every change of the manifests, until it is cancelled."""
        folders = {path if path.is_dir() else path.parent for path in self._paths}
        watch = watchfiles.awatch(
            *folders, recursive=False, debounce=200, step=50, rust_timeout=_LOOK_MS, yield_on_timeout=True
        )
        async for changes in watch:
            if changes or self._is_overlap_over():
                await self.reload()

    def _is_overlap_over(self) -> bool:
        """Whether the files hold an old password that counts no more."""
        end = next_end(self.rendered.entries)
        return end is not None and end <= datetime.now(UTC)

    async def reload(self) -> None:
        """Renders again; what is new and good is applied, what is bad is reported."""
        try:
            rendered = render_paths(self._paths, self._adapt, self._mock_key, self.rendered, datetime.now(UTC))
        except BadManifests as error:
            if error.problems != self._reported:
                self._say("the manifests have problems; the last good configuration stays:")
                for problem in error.problems:
                    self._say(f"  {problem}")
            self._reported = error.problems
            return
        had_problems, self._reported = bool(self._reported), []
        if rendered.files == self.rendered.files:
            if had_problems:
                self._say("the manifests are good again; nothing else has changed")
            return
        if rendered.cluster.spec.listeners != self._listeners:
            self._say("note: listeners change at the next start only")
        for note in rendered.notes:
            self._say(f"note: {note}")
        began = time.monotonic()
        try:
            await self._write(rendered)
        except (OSError, LocalPostgresError) as error:
            self._say(f"the change cannot be applied; the last good configuration stays: {error}")
            return
        self.rendered = rendered
        if await self._is_applied(rendered):
            self._say(f"applied: {len(rendered.entries)} tenants, after {time.monotonic() - began:.1f} s")
        else:
            self._say(f"the pooler has not applied the change after {APPLY_TIMEOUT_S:.0f} s")

    def close(self) -> None:
        """Removes the files; the process must have ended."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _write(self, rendered: Rendered) -> None:
        if self._before_write is not None:
            await self._before_write(list(rendered.entries.values()))
        self._config.write(rendered.files)

    async def _is_applied(self, rendered: Rendered) -> bool:
        wanted = rendered.revisions
        deadline = time.monotonic() + APPLY_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                revisions = (await asyncio.to_thread(self.pooler.status))["revisions"]
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                revisions = {}
            if all(revisions.get(name) == revision for name, revision in wanted.items()):
                return True
            await asyncio.sleep(_APPLY_POLL_S)
        return False
