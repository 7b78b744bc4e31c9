"""What was compared, and how the figures are shown."""

import importlib.metadata
import subprocess
from typing import Any, NamedTuple

BOOKS_PER_SECOND = 10
EDGE_SECONDS = 0.2
"""Rows of so long may be on the way at the end of the window without more being wrong."""


class Recorder(NamedTuple):
    """What is compared: the module that runs it, and the table and time column in which its rows arrive."""

    title: str
    module: str
    table: str
    time_column: str = "timestamp"
    own_python: bool = False
    tcp: bool = False


RECORDERS = {
    "ingester": Recorder("ingester", "rivals.ingester_recorder", "orderbook"),
    "websocketapp": Recorder("a WebSocketApp thread per pair", "rivals.websocketapp", "websocketapp_books"),
    "cryptofeed": Recorder(
        "cryptofeed, QuestDB backend", "rivals.cryptofeed_questdb", "book-BINANCE", own_python=True, tcp=True
    ),
}


def table(rate: int, mode: str, results: list[dict[str, Any]]) -> str:
    """One rate and mode as Markdown."""
    base = next((each for each in results if each["recorder"] == "ingester"), None)

    def times(each: dict[str, Any], key: str, form: str) -> str:
        if each[key] is None:
            return "-"
        ratio = f" ({each[key] / base[key]:.1f}x)" if base and base[key] else ""
        return format(each[key], form) + ratio

    lines = [
        f"**{rate:,} rows/s ({rate // BOOKS_PER_SECOND:,} pairs), {'in bursts' if mode == 'burst' else 'spread'}**",
        "",
        "| recorder | CPU s per million rows | rows/s stored of sent | peak MB | lag p50 / p99 | cores: recorder + simulator + QuestDB |",  # noqa: E501
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for each in results:
        lag, cores = each["lag"], each["cores"]
        share = each["rows"] / max(1, each["sent"])
        behind = ", **behind**" if each["sent"] - each["rows"] > EDGE_SECONDS * rate else ""
        lines.append(
            f"| {RECORDERS[each['recorder']].title} | {times(each, 'cpu_per_million', '.1f')} "
            f"| {each['rows'] / each['seconds']:,.0f} of {each['sent'] / each['seconds']:,.0f} ({share:.2%}{behind}) "
            f"| {times(each, 'peak_mb', '.0f')} | {f'{lag[0]:.2f} / {lag[1]:.2f} s' if lag else '-'} "
            f"| {cores['recorder']:.2f} + {cores['simulator']:.2f} + {cores['questdb']:.2f} |"
        )
        parts = ", ".join(f"{name} {spent:.1f}" for name, spent in each["threads"].items() if spent >= 0.05)
        notes.append(f"{each['recorder']} by thread, CPU s per million rows: {parts or '-'}")
        if each["subscribed"] < rate // BOOKS_PER_SECOND:
            notes.append(f"{each['recorder']} had only {each['subscribed']:,} pairs connected after a minute")
        if each["skipped_ticks"]:
            notes.append(f"the simulator itself skipped {each['skipped_ticks']} ticks beside {each['recorder']}")
        if whole := each.get("whole_run"):
            text = "{acknowledged:,} rows acknowledged, {rows:,} in the table, {missing:,} books missing between"
            notes.append(f"{each['recorder']}, whole run: {text.format(**whole)}")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def versions(python: str | None) -> str:
    """The versions of what takes part."""
    names = ["ingester", "websocket-client", "questdb", "msgspec", "pandas", "numpy"]
    parts = [f"{name} {importlib.metadata.version(name)}" for name in names]
    if python:
        show = "import importlib.metadata as m; print(m.version('cryptofeed'))"
        found = subprocess.run([python, "-c", show], capture_output=True, text=True, check=False).stdout.strip()
        parts.append(f"cryptofeed {found or '-'}")
    return ", ".join(parts)


def latencies(pairs: int, mode: str, results: list[dict[str, Any]]) -> str:
    """How soon live readers have a book, as Markdown."""
    lines = [
        f"**{pairs:,} pairs ({pairs * BOOKS_PER_SECOND:,} books/s), {'in bursts' if mode == 'burst' else 'spread'}**",
        "",
        "| a book is seen in | p50 | p99 | p99.9 | most | books seen | cores |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in results:
        ms = each["ms"]
        name = each["way"] + (f", feed thread lingers {each['linger']}" if each["linger"] else "")
        share = each["books"] / each["expected"]
        lines.append(
            f"| {name} | {' | '.join(f'{ms[key]:.2f} ms' for key in ('p50', 'p99', 'p99.9', 'most'))} "
            f"| {share:.1%} | {each['cores']:.2f} |"
        )
        if each["skipped_ticks"]:
            lines.append(f"\n- the simulator itself skipped {each['skipped_ticks']} ticks beside {name}")
    return "\n".join(lines)
