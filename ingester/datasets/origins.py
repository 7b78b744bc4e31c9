"""Where an imported file comes from: of which pair it is, whether it is on a grid, and which gaps it has.

Its data set's manifest tells exactly, also of a file that was renamed; else the name of the file tells the pair.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from ingester.datasets.dataset import COLON, MILLISECOND, parse_time, symbol_named
from ingester.datasets.unpacking import PACKED, UnreadableRecording, open_regular, unpacked
from ingester.errors import SettingsError

MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 256 << 20
KINDS = (".pkl", ".csv", ".parquet", ".npz")
"""Endings of files that can be imported, in upper or lower case; the first two may be packed."""
ENDINGS = ".pkl, .csv (also .gz, .bz2, .xz, .zst), .parquet or .npz"
EXPECTED = f"ADA_USDT_100ms_(2023-06-01 08{COLON}31)_(1).pkl"

_NAME = re.compile(r"([^_]+_[^_]*)_(\d+)(ms|s|min|m|h)(_\([^()]+\))+", re.IGNORECASE)
_READ_BYTES = 1 << 20
EXCHANGE_NAME = r"^[A-Za-z0-9.:_\[\]-]{0,80}$"
"""A name, or host and port; empty for none."""
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000}


class Origin(NamedTuple):
    """What is known of a file before it is read."""

    symbol: str = ""
    """Empty where nothing tells it but perhaps the file itself."""
    every_ns: int = 0
    """Of the data set's grid; 0: rows as received, or nothing tells."""
    gaps: tuple[tuple[int, int, str], ...] = ()
    """(since, until, reason) in ns, as the manifest has them."""
    frequency_ns: int = 0
    """Of the rows, as the name says."""
    note: str = ""
    """What there is to say about the manifest."""
    exchange: str = ""
    """As the manifest names it; empty where nothing does."""


class _OriginGap(msgspec.Struct):
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")
    reason: str = ""


class _OriginGrid(msgspec.Struct):
    every_ms: int


class _ManifestPair(msgspec.Struct):
    file: str
    sha256: str = ""
    bytes: int = 0
    gaps: list[_OriginGap] = []


class _OriginManifest(msgspec.Struct):
    pairs: dict[str, _ManifestPair]
    grid: _OriginGrid | None = None
    exchange: Annotated[str, msgspec.Meta(pattern=EXCHANGE_NAME)] = ""


class Origins:
    """Reads each folder's manifest once."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._manifest: _OriginManifest | str | None = None
        """A text says why it cannot be used; None: there is none."""
        self._renamed: dict[Path, str] = {}
        """The pair of each file that the manifest beside it has under another name; empty where it has none."""

    def of(self, path: Path) -> Origin:
        """Raises UnreadableRecording where nothing can be made of the name of the file."""
        if path.parent != self._folder:
            self._folder, self._manifest = path.parent, _read(path.parent / MANIFEST)
        named = _named(path.name)
        manifest = self._manifest
        if isinstance(manifest, str):
            return named._replace(note=manifest)
        if manifest is None or not (symbol := self._pair_of(path, manifest.pairs)):
            return named
        try:
            gaps = [(parse_time(gap.since), parse_time(gap.until), gap.reason) for gap in manifest.pairs[symbol].gaps]
        except (SettingsError, OverflowError) as error:
            return named._replace(note=f"{MANIFEST} beside it is damaged, its gaps are not known: {str(error)[:200]}")
        every_ns = manifest.grid.every_ms * MILLISECOND if manifest.grid else 0
        return named._replace(
            symbol=symbol, every_ns=every_ns, gaps=tuple(gaps), frequency_ns=0, exchange=manifest.exchange
        )

    def _pair_of(self, path: Path, pairs: Mapping[str, _ManifestPair]) -> str:
        """By the name of the file, else by its content. Empty where it is none of the data set."""
        names = (path.name, _unpacked(path.name))
        if symbol := next((symbol for symbol, pair in pairs.items() if pair.file in names), ""):
            return symbol
        if path not in self._renamed:
            self._renamed[path] = _pair_of_content(path, pairs)
        return self._renamed[path]


def _pair_of_content(path: Path, pairs: Mapping[str, _ManifestPair]) -> str:
    """The pair whose file has the bytes of this one, packed or not."""
    by_content = {pair.sha256: symbol for symbol, pair in pairs.items() if pair.sha256}
    sizes = {pair.bytes for pair in pairs.values() if pair.sha256}
    digest, size = hashlib.sha256(), 0
    try:
        with unpacked(path) as file:
            if path.suffix.lower() not in PACKED and os.fstat(file.fileno()).st_size not in sizes:
                return ""
            while size <= max(sizes, default=0) and (data := file.read(_READ_BYTES)):
                digest.update(data)
                size += len(data)
    except Exception:  # what broken and hostile bytes raise is anybody's guess; reading its rows says why
        return ""
    return by_content.get(digest.hexdigest(), "")


def symbol_of(name: str) -> str:
    """`ADAUSDT` of a file name; empty where it tells none. Raises UnreadableRecording for an unknown ending."""
    return _named(name).symbol


def _unpacked(name: str) -> str:
    """The name that a file had before it was packed."""
    path = Path(name)
    return path.stem if path.suffix.lower() in PACKED else name


def kind_of(name: str) -> str:
    """`.csv` of a file name, packed or not; empty where it is none that can be imported."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    packed = bool(suffixes) and suffixes[-1] in PACKED
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    return kind[0] if kind and kind[0] in (KINDS[:2] if packed else KINDS) else ""


def _named(name: str) -> Origin:
    kind = kind_of(name)
    if not kind:
        raise UnreadableRecording(f"has an unknown file ending; expected {ENDINGS}")
    stem = name[: name.lower().rindex(kind)]
    match = _NAME.fullmatch(stem)
    try:
        symbol = symbol_named(match[1]) if match else ""
    except ValueError:  # also of bytes that are no UTF-8
        symbol = ""
    if match is None or not symbol or not symbol.isprintable():
        return Origin()
    return Origin(symbol, frequency_ns=int(match[2][:9]) * _UNITS_MS[match[3].lower()] * MILLISECOND)


def _read(path: Path) -> _OriginManifest | str | None:
    if not path.exists() and not path.is_symlink():
        return None
    try:
        with open_regular(path) as file:
            text = file.read(MOST_MANIFEST_BYTES + 1)
        if len(text) > MOST_MANIFEST_BYTES:
            raise ValueError("it is too large")
        manifest = msgspec.json.decode(text, type=_OriginManifest)
        if manifest.grid is not None and not 0 < manifest.grid.every_ms < 1 << 40:
            raise ValueError(f"every_ms is {manifest.grid.every_ms}")
        if unfit := next((symbol for symbol in manifest.pairs if not symbol.isprintable() or not symbol), None):
            raise ValueError(f"it names the pair {unfit!r}")
    except (UnreadableRecording, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        return f"{MANIFEST} beside it cannot be used, its gaps are not known: {str(error)[:200]}"
    return manifest
