"""Both text formats in pieces: the same text as the library writes in one go."""

import asyncio
from collections.abc import Callable, Iterable, Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from pgweir_pooler.admin_http.exposition import OPENMETRICS, PLAIN, Format, format_for, write
from pgweir_pooler.slices import Slices


class _All(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metrics(labels_per_piece: int) -> Iterator[Metric]:
    labels = [f'# {i}\n"\\' for i in range(6)]
    for start in range(0, len(labels), labels_per_piece):
        counter = CounterMetricFamily("c", "Counts\nthings.", labels=["x"])
        for label in labels[start : start + labels_per_piece]:
            counter.add_metric([label], 2**60)
        yield counter
    yield GaugeMetricFamily("g", "", 0.5)
    for start in range(0, len(labels), labels_per_piece):
        histogram = HistogramMetricFamily("h", "Durations.", labels=["x"])
        for label in labels[start : start + labels_per_piece]:
            histogram.add_metric([label], [("1e-06", 1), ("+Inf", 3)], 0.25)
        yield histogram


@pytest.mark.parametrize(("form", "library"), [(PLAIN, generate_latest), (OPENMETRICS, generate_openmetrics)])
async def test_pieces_make_the_text_that_the_library_writes(
    form: Format, library: Callable[[Collector], bytes]
) -> None:
    whole = library(_All(list(_metrics(6))))
    for size in (1, 2, 5):
        assert await write(_metrics(size), form, Slices()) == whole


async def test_the_loop_has_its_turns_while_a_text_is_written() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    slices = Slices()
    counter = asyncio.create_task(count_turns())
    many = (GaugeMetricFamily(f"g{i}", "A gauge.", i) for i in range(5000))
    await write(many, PLAIN, slices)
    counter.cancel()
    assert turns > 3
    assert slices.longest_s > 0


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/plain;version=0.0.4;q=0.5", PLAIN),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2", OPENMETRICS),
        ("text/plain, Application/OpenMetrics-Text; version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text-not", PLAIN),
    ],
)
def test_the_accept_header_chooses(accept: str, form: Format) -> None:
    assert format_for(accept) is form
