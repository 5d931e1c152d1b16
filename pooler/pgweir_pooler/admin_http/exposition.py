"""Prometheus' two text formats, written a few samples at a time.

`prometheus_client` writes whole metrics in one go, at 3-5 µs per sample. A family with thousands of samples comes here
as several metrics of the same name, one after the other; each is written by the library, and the lines that head a
family (HELP, TYPE, UNIT) are kept from the first alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric

    from pgweir_pooler.slices import Slices

_OPENMETRICS_TYPE: Final = "application/openmetrics-text"


@dataclass(frozen=True, slots=True)
class Format:
    """One text format: how the library writes it, what HTTP calls it, and how a whole answer ends."""

    content_type: str
    write: Callable[[Collector], bytes]
    end: bytes


PLAIN: Final = Format(CONTENT_TYPE_PLAIN_0_0_4, generate_latest, b"")
OPENMETRICS: Final = Format(
    f"{_OPENMETRICS_TYPE}; version=1.0.0; charset=utf-8", openmetrics_exposition.generate_latest, b"# EOF\n"
)


def format_for(accept: str) -> Format:
    """OpenMetrics for those who name it in their Accept header, as Prometheus does; the plain format for all others."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return OPENMETRICS if _OPENMETRICS_TYPE in kinds else PLAIN


class _Only(Collector):
    """A registry with one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _without_heading(text: bytes) -> bytes:
    start = 0
    while text.startswith(b"# ", start):
        start = text.index(b"\n", start) + 1
    return text[start:]


async def write(metrics: Iterable[Metric], form: Format, slices: Slices) -> bytes:
    """The whole answer. Metrics of one name must follow each other; each is made and written within a slice."""
    parts: list[bytes] = []
    last = ""
    for metric in metrics:
        text = form.write(_Only(metric)).removesuffix(form.end)
        parts.append(_without_heading(text) if metric.name == last else text)
        last = metric.name
        if slices.is_over:
            await slices.rest()
    parts.append(form.end)
    return b"".join(parts)
