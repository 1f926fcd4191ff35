"""Figures in Prometheus' text format."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
GAUGES = {  # of EngineStats, under our name and the name that gateways read
    "running": ("freehold_requests_running", "vllm:num_requests_running", "Requests in the step"),
    "waiting": ("freehold_requests_waiting", "vllm:num_requests_waiting", "Requests that wait"),
}
COUNTERS = {
    "prefill_tokens": ("freehold_prefill_tokens", "Prompt tokens computed"),
    "decode_tokens": ("freehold_decode_tokens", "Tokens drawn"),
    "prefix_query_tokens": ("freehold_prefix_cache_query_tokens", "Prompt tokens looked for in the prefix cache"),
    "prefix_hit_tokens": ("freehold_prefix_cache_hit_tokens", "Prompt tokens found in the prefix cache"),
    "preemptions": ("freehold_preemptions", "Requests set back for want of KV blocks"),
    "steps": ("freehold_steps", "Steps of the engine"),
}


class Metrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._answers = Counter("freehold_requests", "Requests", ["path", "status"], registry=registry)
        self._seconds = Histogram("freehold_request_seconds", "To the end", buckets=SECONDS, registry=registry)
        first = "freehold_time_to_first_token_seconds"
        self._first = Histogram(first, "Of a reply", ["model"], buckets=SECONDS, registry=registry)
        self._gaps: dict[str, Gaps] = {}

    def answered(self, path: str, status: int, seconds: float) -> None:
        self._answers.labels(path, str(status)).inc()
        self._seconds.observe(seconds)

    def replied(self, model: str, completion: Any) -> None:
        self._first.labels(model).observe(completion.timings.time_to_first_token_s)

    def gaps(self, model: str) -> "Gaps":
        return self._gaps.setdefault(model, Gaps())

    def render(self, pool: Any) -> bytes:
        registry = CollectorRegistry()
        registry.register(_Engines(pool, self._gaps))
        return generate_latest(self.registry) + generate_latest(registry)


class Gaps:
    """Seconds between tokens as they are sent. Noted for each token, by the event loop alone: without locks."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BETWEEN) + 1)
        self.total_s = 0.0

    def note(self, seconds: float) -> None:
        self.counts[bisect_left(BETWEEN, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        return list(zip([*map(str, BETWEEN), "+Inf"], accumulate(self.counts), strict=True))


class _Engines:
    """Collects the figures of all loaded models' engines."""

    def __init__(self, pool: Any, gaps: dict[str, Gaps]):
        self._gaps = gaps
        self._stats = {name: served.model.engine.stats() for name, served in pool.loaded.items()}

    def collect(self) -> Iterator[Metric]:
        for field, (*names, text) in GAUGES.items():
            for name in names:
                yield self._gauge(name, text, lambda stats, field=field: getattr(stats, field))
        for name in ("freehold_kv_cache_usage", "vllm:kv_cache_usage_perc"):
            yield self._gauge(name, "Share of KV blocks in use", lambda s: s.kv_blocks_used / s.kv_blocks_total)
        for field, (name, text) in COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=["model"])
            for model, stats in self._stats.items():
                family.add_metric([model], getattr(stats, field))
            yield family
        family = CounterMetricFamily("freehold_replies", "Replies by their end", labels=["model", "reason"])
        for model, stats in self._stats.items():
            for reason, count in stats.finished.items():
                family.add_metric([model, reason], count)
        yield family

        between = "freehold_time_between_tokens_seconds"
        family = HistogramMetricFamily(between, "As they are sent", labels=["model"])
        for model, gaps in self._gaps.items():
            family.add_metric([model], gaps.buckets(), gaps.total_s)
        yield family

    def _gauge(self, name: str, text: str, value: Any) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=["model"])
        for model, stats in self._stats.items():
            family.add_metric([model], value(stats))
        return family
