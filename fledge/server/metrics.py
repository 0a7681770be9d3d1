"""What a server counts, as Prometheus reads it."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
KINDS = {
    "fledge_requests_total": "Requests by route and status.",
    "fledge_request_seconds": "Time from the first to the last byte of a request's answer.",
    "fledge_first_token_seconds": "Time from a question to the first piece of a streamed answer.",
    "fledge_between_tokens_seconds": "Time between pieces of a streamed answer.",
    "fledge_prompt_tokens_total": "Tokens read.",
    "fledge_answer_tokens_total": "Tokens written.",
    "fledge_answers": "Answers under way or waiting now.",
    "fledge_ready": "1 while questions are answered.",
}


class Histogram:
    """How many values lie up to each of `SECONDS`, and their sum."""

    def __init__(self):
        self.counts, self.sum = [0] * (len(SECONDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str, labels: str) -> Iterator[str]:
        total = 0
        for edge, count in zip((*map(str, SECONDS), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{edge}"}} {total}'
        yield f"{name}_sum{{{labels}}} {self.sum:.6f}"
        yield f"{name}_count{{{labels}}} {total}"


class Metrics:
    """Counts and times since the start, by labels of which there are few."""

    def __init__(self):
        self.counts: Counter[tuple[str, str]] = Counter()
        self.times: dict[tuple[str, str], Histogram] = {}

    def count(self, name: str, amount: int = 1, **labels: str | int) -> None:
        self.counts[name, _labels(labels)] += amount

    def time(self, name: str, seconds: float, **labels: str | int) -> None:
        self.times.setdefault((name, _labels(labels)), Histogram()).add(seconds)

    def text(self, answers: Mapping[str, int], ready: bool) -> str:
        """Everything, in the text format of https://prometheus.io/docs/instrumenting/exposition_formats/."""
        now = {("fledge_answers", _labels({"model": name})): rows for name, rows in answers.items()}
        counts = {**self.counts, **now}
        lines = []
        for name, meaning in KINDS.items():
            kind = "histogram" if name.endswith("_seconds") else "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{{{labels}}} {value}" for (other, labels), value in counts.items() if other == name]
            for (other, labels), histogram in self.times.items():
                lines += histogram.lines(name, labels) if other == name else ()
            if name == "fledge_ready":
                lines.append(f"{name} {int(ready)}")
        return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str | int]) -> str:
    """`name="value"` of each, escaped."""
    told = {name: str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()}
    return ",".join(f'{name}="{value}"' for name, value in told.items())
