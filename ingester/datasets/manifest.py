"""`manifest.json` of a data set: what it holds, where that came from, and what it does not cover."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ingester.clock import SECOND
from ingester.datasets.dataset import MILLISECOND, time_text
from ingester.datasets.export import PairFile
from ingester.datasets.gaps import MissingTime, percent_covered
from ingester.datasets.request import Request
from ingester.questdb import ORDERBOOK
from ingester.spool import replace_durably

NAME = "manifest.json"
FORMAT_VERSION = 1


def build_manifest(
    request: Request, files: Sequence[PairFile], gaps: Mapping[str, Sequence[MissingTime]], collectors: Sequence[str]
) -> dict[str, Any]:
    """The manifest as a plain mapping. Times are ISO 8601 in UTC with all digits that they have."""
    return {
        "version": FORMAT_VERSION,
        "ingester": version("ingester"),
        "from": iso(request.start_ns),
        "to": iso(request.end_ns),
        "format": request.format,
        "levels": request.levels,
        "grid": _grid(request),
        "source": {"table": ORDERBOOK, "collectors": list(collectors)},
        "rows": sum(file.rows for file in files),
        "pairs": {file.symbol: _pair(request, file, gaps.get(file.symbol, ())) for file in files},
    }


def is_whole(folder: Path, request: Request) -> bool:
    """Whether a folder holds the data set that is asked for."""
    try:
        found = json.loads((folder / NAME).read_bytes())
        wanted = build_manifest(request, (), {}, ())
        asked = all(found[key] == wanted[key] for key in ("version", "from", "to", "format", "levels", "grid"))
        return asked and set(found["pairs"]) == set(request.symbols)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes it durably."""
    replace_durably(folder / NAME, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def iso(ns: int) -> str:
    """`2023-06-01T12:00Z`, with seconds and their fraction where they are not zero."""
    return time_text(ns).replace(" ", "T") + "Z"


def gap_mapping(gap: MissingTime) -> dict[str, Any]:
    """A gap of a pair, for programs."""
    return {
        "from": iso(gap.since_ns),
        "to": iso(gap.until_ns),
        "seconds": gap.length_ns / SECOND,
        "reason": gap.reason,
    }


def _grid(request: Request) -> dict[str, Any] | None:
    if request.every_ns is None:
        return None
    return {
        "every_ms": request.every_ns // MILLISECOND,
        "max_age_ms": request.max_age_ns / MILLISECOND,
        "fill": request.fill,
    }


def _pair(request: Request, file: PairFile, gaps: Sequence[MissingTime]) -> dict[str, Any]:
    return {
        "file": file.name,
        "sha256": file.sha256,
        "bytes": file.bytes,
        "rows": file.rows,
        "rows_without_data": file.rows_without_data,
        "first_row": None if file.first_ns is None else iso(file.first_ns),
        "last_row": None if file.last_ns is None else iso(file.last_ns),
        "coverage_percent": round(percent_covered(gaps, request.start_ns, request.end_ns), 4),
        "gaps": [gap_mapping(gap) for gap in gaps],
    }
