"""What the tables are made from: the process, the admins who are here, and the time, all of one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from pgweir_pooler.console.stats import Averages
    from pgweir_pooler.console.view import ProcessView


class AdminView(Protocol):
    """An admin who is logged in."""

    @property
    def id(self) -> int: ...
    @property
    def user(self) -> str: ...
    @property
    def application_name(self) -> str: ...
    @property
    def connected_at(self) -> float: ...
    @property
    def last_request_at(self) -> float: ...
    @property
    def transport(self) -> asyncio.Transport: ...


@dataclass(frozen=True, slots=True)
class Scene:
    """`now` is monotonic, `wall` the same moment in seconds since the epoch, `memory` pages by kind."""

    process: ProcessView
    admins: Sequence[AdminView]
    averages: Averages
    now: float
    wall: float
    memory: Mapping[str, int]
    page_size: int
    console_database: str
