"""The metrics as text for Prometheus: the format that Prometheus reads, or OpenMetrics if the request's Accept field asks for it.

The package prometheus-client makes the text (`pip install muxwsgi[metrics]`). It is imported when the first text is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from muxwsgi import __version__
from muxwsgi.build import BUILD
from muxwsgi.errors import OperatorError
from muxwsgi.observe.certificates import CertificateRow
from muxwsgi.observe.metrics import METRICS, PLACES, ROUTES, SERVERS, UNDECIDED, Metric
from muxwsgi.record import record

__all__ = ["Readings", "check_installed", "expose", "values_of"]


@record(kw_only=True)
class Readings:
    """What was read of all processes at one time.

    workers     the words of each worker that lives, by its number
    sums        each word, added up over all workers; counters include those of workers that have ended
    master      the master's words, by the names of metrics; without a name that is not known
    routes      names of the routes, by row
    servers     of the servers of upstreams, by row
    certificates    when certificates expire
    """

    workers: Mapping[int, Sequence[int]]
    sums: Sequence[int]
    master: Mapping[str, Sequence[int]] = field(default_factory=dict)
    routes: Sequence[str] = (UNDECIDED,)
    servers: Sequence[str] = ()
    certificates: Sequence[CertificateRow] = ()


def check_installed() -> None:
    """Raises `OperatorError` if prometheus-client is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise OperatorError(f"metrics need the package prometheus-client (pip install muxwsgi[metrics]): {error}") from error


def values_of(readings: Readings) -> Iterator[tuple[Metric, tuple[tuple[tuple[str, ...], float | tuple[int, ...]], ...]]]:
    """Each metric with its label values and the value of each. A histogram has one value: its words as they are.

    Series of routes and servers that no worker has named are left out, and series of a zero in `muxwsgi_http_requests_total`, which are
    hundreds.
    """
    sums = readings.sums
    for metric in METRICS:
        if metric.source == "master":
            words: Sequence[int] = readings.master.get(metric.name, ())
            if words:
                yield metric, tuple((labels, word / metric.scale) for labels, word in zip(metric.series, words, strict=True))
            continue
        if metric.source == "certificates":
            if readings.certificates:
                yield metric, tuple(((row.bind, row.name), float(row.not_after)) for row in readings.certificates)
            continue
        first = PLACES[metric.name]
        if metric.source == "each":
            yield metric, tuple(((str(slot),), words[first] / metric.scale) for slot, words in sorted(readings.workers.items()) if words)
            continue
        words = sums[first : first + metric.size]
        if metric.buckets:
            yield metric, (((), tuple(words)),)
        else:
            yield metric, tuple(_series(metric, words, readings))


def _series(metric: Metric, words: Sequence[int], readings: Readings) -> Iterator[tuple[tuple[str, ...], float]]:
    names: Sequence[str] | None = None
    last = 0
    if metric.labels[:1] == ("route",):
        names, last = readings.routes, ROUTES - 1
    elif metric.labels[:1] == ("server",):
        names, last = readings.servers, SERVERS - 1
    for labels, word in zip(metric.series, words, strict=True):
        if names is not None:
            row = int(labels[0])
            name = "other" if row == last else names[row] if row < len(names) else ""
            if not name or (not word and (row == last or name == UNDECIDED)):
                continue
            labels = (name, *labels[1:])
        elif not word and metric.name == "muxwsgi_http_requests_total":
            continue
        yield labels, word / metric.scale


class _Collector:
    """What prometheus-client collects from."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        build = GaugeMetricFamily("muxwsgi_build_info", "The version, and which build it is: always 1.", labels=("version", "build"))
        build.add_metric((__version__, BUILD), 1)
        yield build
        for metric, values in values_of(self._readings):
            labels = (*metric.labels, "worker") if metric.source == "each" else metric.labels
            family: Any
            if metric.kind == "histogram":
                family = HistogramMetricFamily(metric.name, metric.help, labels=labels)
                for own, words in values:
                    assert isinstance(words, tuple)
                    family.add_metric(own, _cumulative(metric, words), sum_value=words[-1] / metric.scale)
            else:
                family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(metric.name, metric.help, labels=labels)
                for own, value in values:
                    family.add_metric(own, value)
            yield family


def _cumulative(metric: Metric, words: Sequence[int]) -> list[tuple[str, int]]:
    """The buckets as Prometheus has them: each has what is in the smaller ones too."""
    found, count = [], 0
    for bound, word in zip((*metric.buckets, None), words[:-1], strict=True):
        count += word
        found.append(("+Inf" if bound is None else repr(float(bound)), count))
    return found


def expose(readings: Readings, accept: str = "") -> tuple[bytes, str]:
    """The text for a scrape, and its media type. `accept` is the request's Accept field."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(readings))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type
