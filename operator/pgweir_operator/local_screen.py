"""What the user sees: lines, and on a terminal a progress bar and a table below them that are drawn in place.

Without a terminal nothing but plain lines leaves, no control sequences. `rich` comes with `pgweir[demo]`, so only
the demo makes a `TerminalScreen`.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pgweir_operator.demo_metrics import TenantRate

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_EVERY_S = 5.0
ROWS_SHOWN = 20


class Screen(Protocol):
    """Where the program talks to its user."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def progress(self, what: str, done: float, total: float | None) -> None:
        """How far something is; without a total it has no end."""

    def table(self, rows: Sequence[TenantRate], caption: str) -> None:
        """The tenants now."""

    def close(self) -> None:
        """Nothing is drawn in place any more."""


class PlainScreen:
    """Lines on standard output: progress by quarters, the table every PLAIN_EVERY_S seconds."""

    def __init__(self) -> None:
        self._quarter = (-1, "")
        self._ticks = 0

    def say(self, line: str) -> None:
        print(line, flush=True)

    def progress(self, what: str, done: float, total: float | None) -> None:
        quarter = (int(4 * done / total), what) if total else (0, what)
        if total and quarter != self._quarter:
            self.say(f"{what}: {done:.0f} of {total:.0f}")
        self._quarter = quarter

    def table(self, rows: Sequence[TenantRate], caption: str) -> None:
        self._ticks += 1
        if (self._ticks - 1) % PLAIN_EVERY_S == 0:
            for row in rows[:ROWS_SHOWN]:
                self.say(
                    f"  {row.tenant}: clients {row.clients}, servers {row.servers}, waiting {row.waiting},"
                    f" {row.queries_per_s:.0f} queries/s, p50 {row.p50_s * 1e3:.2f} ms, p99 {row.p99_s * 1e3:.2f} ms"
                )
            self.say(f"  {caption}")

    def close(self) -> None:
        pass


class TerminalScreen:
    """The same, drawn in place by rich."""

    def __init__(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn()
        )
        self._task = self._progress.add_task("", visible=False, count="")
        self._what = ""
        self._group = Group
        self._live: Live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._table: Table | str = ""
        self._is_live = False

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def progress(self, what: str, done: float, total: float | None) -> None:
        if what != self._what:
            # A task of its own: for rich, `total=None` leaves a task's total as it was.
            self._what = what
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(what, total=total, count="")
        count = f"{done:.0f}" if total is None else f"{done:.0f}/{total:.0f}"
        self._progress.update(self._task, completed=done, count=count)
        self._draw()

    def table(self, rows: Sequence[TenantRate], caption: str) -> None:
        from rich.table import Table

        table = Table(caption=caption, caption_justify="left")
        table.add_column("tenant")
        for name in ("clients", "servers", "waiting", "queries/s", "p50 ms", "p99 ms"):
            table.add_column(name, justify="right")
        for row in rows[:ROWS_SHOWN]:
            numbers = [f"{row.clients}", f"{row.servers}", f"{row.waiting}", f"{row.queries_per_s:.0f}"]
            table.add_row(row.tenant, *numbers, f"{row.p50_s * 1e3:.2f}", f"{row.p99_s * 1e3:.2f}")
        self._table = table
        self._draw()

    def close(self) -> None:
        if self._is_live:
            self._live.stop()
            self._is_live = False

    def _draw(self) -> None:
        self._live.update(self._group(self._table, self._progress))
        if not self._is_live:
            self._live.start()
            self._is_live = True


def screen_for_demo() -> Screen:
    """In place on a terminal, plain lines elsewhere."""
    return TerminalScreen() if sys.stdout.isatty() else PlainScreen()
