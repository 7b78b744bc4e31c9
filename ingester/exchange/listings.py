"""What exchanges list, kept from one time to the next: in memory, and in `listing.json` in the data folder.

    {"sources": {"https://api.binance.com": {"pairs": 1480, "short_since": null}},
     "symbols": {"BTCUSDT": {"status": "TRADING", "base": "BTC", "quote": "USDT",
                             "source": "https://api.binance.com", "gone_since": null}}}

A pair stays there when it is no longer listed, so that its base and quote remain known. An answer of the exchange may
lack pairs for a while, as during maintenance. So a pair counts as listed for a day after it was; and an answer with
much fewer pairs than the last one is not believed, unless it stays so for a day. Times are seconds since 1970.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ingester.errors import Incomplete
from ingester.exchange.venue import Listing, ListingStatus
from ingester.proxies import is_loopback

log = logging.getLogger(__name__)

NAME = "listing.json"
PATIENCE_SECONDS = 86_400.0
"""So long a pair counts as listed, and a short answer is not believed."""
LEAST_SHARE = 0.8
"""An answer with less than this share of the pairs that were listed the last time is a short one."""
MOST_SOURCES = 20


class _Source(msgspec.Struct, frozen=True):
    """`short_since`: since when it has given short answers only."""

    pairs: int
    short_since: float | None = None


class _ListedPair(msgspec.Struct, frozen=True):
    status: ListingStatus
    base: str
    quote: str
    source: str
    gone_since: float | None = None


class _Content(msgspec.Struct):
    sources: dict[str, _Source] = {}
    symbols: dict[str, _ListedPair] = {}


class KeptListing:
    """What was listed. `path` is its file, None for memory only. May be used from any thread."""

    def __init__(self, path: Path | None = None, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._content: _Content | None = None

    def assets(self, symbol: str) -> tuple[str, str] | None:
        """(base, quote) as an exchange listed them."""
        pair = self._read().symbols.get(symbol)
        return (pair.base, pair.quote) if pair else None

    def bases(self) -> frozenset[str]:
        """All base assets."""
        return frozenset(pair.base for pair in self._read().symbols.values())

    def recent(self, source: str) -> dict[str, Listing]:
        """The pairs that this source no longer lists, but did less than a day ago."""
        since = self._now() - PATIENCE_SECONDS
        return {
            symbol: Listing(symbol, pair.base, pair.quote, pair.status)
            for symbol, pair in self._read().symbols.items()
            if pair.source == source and pair.gone_since is not None and pair.gone_since > since
        }

    def note(self, source: str, listed: Mapping[str, Listing]) -> None:
        """Takes in what a source lists now. Raises Incomplete where that is much less than before."""
        old, now = self._read(), self._now()
        if self._content is None:
            return  # what is kept cannot be read now: it must not be replaced by less
        known = old.sources.get(source, _Source(0))
        since = known.short_since if known.short_since is not None else now
        short = len(listed) < LEAST_SHARE * known.pairs and now - since < PATIENCE_SECONDS
        sources = {name: each for name, each in old.sources.items() if name != source}
        sources = dict(list(sources.items())[1 - MOST_SOURCES :])
        sources[source] = _Source(known.pairs, since) if short else _Source(len(listed))
        symbols = dict(old.symbols)
        if not short:
            for symbol, pair in old.symbols.items():
                if pair.source == source and symbol not in listed and pair.gone_since is None:
                    symbols[symbol] = msgspec.structs.replace(pair, gone_since=now)
            for symbol, each in listed.items():
                before = symbols.get(symbol)
                # What is tried out on this machine does not change what a real exchange said.
                if before is None or before.source == source or not _is_local(source) or _is_local(before.source):
                    symbols[symbol] = _ListedPair(each.status, each.base, each.quote, source)
        self._content = _Content(sources, symbols)
        if self._content != old:
            self.write()
        if short:
            raise Incomplete(
                f"{source} lists {len(listed)} pairs, and listed {known.pairs} the last time. That list is not "
                "trusted until it has stayed that short for a day."
            )

    def write(self, make_folder: bool = False) -> None:
        """Replaces the file. `make_folder`: also where there is no folder for it yet."""
        if self._path is None or self._content is None or not self._content.symbols:
            return
        temporary = self._path.with_name(f"{NAME}.{os.getpid()}.new")
        try:
            if make_folder:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not self._path.parent.is_dir():
                return
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(self._content), indent=1))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s); base and quote of new pairs are guessed", self._path, error)

    def _read(self) -> _Content:
        if self._content is not None:
            return self._content
        content = _Content()
        try:
            if self._path is not None:
                content = msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s cannot be read (%s); it is tried again with the next list", self._path, error)
            return content
        except (ValueError, RecursionError) as error:
            log.warning("%s cannot be read (%s); it is written again with the next list", self._path, error)
        self._content = content
        return content


def _is_local(source: str) -> bool:
    return is_loopback(urlsplit(source).hostname or "")
