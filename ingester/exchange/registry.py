"""The exchanges that are known by name, and what an exchange at another address is called."""

import dataclasses
from urllib.parse import urlsplit

from ingester.errors import SettingsError
from ingester.exchange.binance_futures import BINANCE_FUTURES
from ingester.exchange.binance_spot import BINANCE
from ingester.exchange.venue import Venue
from ingester.proxies import is_loopback

SIMULATOR, TESTNET = "simulator", "testnet"
"""Names of exchanges whose books are not real."""

EXCHANGE_NAME = r"^[A-Za-z0-9.:_@%\[\]-]{0,300}\Z"
"""A name, or host and port, as rows and data sets have it; empty for none."""

VENUES: dict[str, Venue] = {
    venue.name: venue
    for venue in (
        BINANCE,
        dataclasses.replace(
            BINANCE,
            name="binance-us",
            market="binance-us",
            title="Binance.US",
            stream_url="wss://stream.binance.us:9443",
            rest_url="https://api.binance.us",
        ),
        dataclasses.replace(
            BINANCE,
            name="binance-vision",
            stream_url="wss://data-stream.binance.vision",
            rest_url="https://data-api.binance.vision",
        ),
        BINANCE_FUTURES,
        dataclasses.replace(
            BINANCE,
            name=TESTNET,
            market=TESTNET,
            title="Binance's test network",
            stream_url="wss://stream.testnet.binance.vision",
            rest_url="https://testnet.binance.vision",
        ),
    )
}
"""By the name that `--exchange` takes; a simulator is none of them, for its address is known when it runs."""


def venue_named(name: str) -> Venue:
    """The exchange of this name. Raises SettingsError."""
    if name not in VENUES:
        offered = ", ".join([*VENUES, SIMULATOR])
        raise SettingsError(f"exchange {name!r} is not known. Choose one of {offered}, or give a Venue.")
    return VENUES[name]


def simulator_at(stream_url: str, rest_url: str, venue: Venue = BINANCE) -> Venue:
    """A simulator at these addresses, which sends what `venue` would."""
    return dataclasses.replace(
        venue, name=SIMULATOR, market=SIMULATOR, title="The simulator", stream_url=stream_url, rest_url=rest_url
    )


def stored_name(name: str) -> str:
    """The name that rows of the exchange of this name are stored under: `binance` for `binance-vision` too."""
    return VENUES[name].market if name in VENUES else name


def rightly_named(venue: Venue) -> Venue:
    """Returns the same exchange under the name that is true of where its books come from.

    The name of a known exchange is only for that exchange's own host; another address is called by its host and port.
    One on this machine is always called so, unless it is a simulator. Where its streams are not those of Binance's spot
    market, its own name comes first (`binance-futures@127.0.0.1:9443`): one address may serve several markets. Raises
    SettingsError where the host belongs to an exchange whose streams have other forms.
    """
    parts = urlsplit(venue.stream_url)
    own = next((each for each in VENUES.values() if urlsplit(each.stream_url).hostname == parts.hostname), None)
    if own is not None:
        if own.channels != venue.channels:
            raise SettingsError(f"{venue.stream_url} is the address of {own.name}. Choose --exchange {own.name}.")
        return dataclasses.replace(venue, name=own.name, market=own.market)
    if venue.name in VENUES or (is_loopback(parts.hostname or "") and venue.name != SIMULATOR):
        place = parts.netloc.rpartition("@")[2]
        name = place if venue.channels == BINANCE.channels else f"{venue.name.partition('@')[0]}@{place}"
        return dataclasses.replace(venue, name=name, market=name)
    return dataclasses.replace(venue, market=venue.name)


def is_practice(name: str) -> bool:
    """Whether an exchange of this name, as `rightly_named` gives it, sends books that are not real."""
    return name in (SIMULATOR, TESTNET) or is_loopback(urlsplit(f"//{name}").hostname or "")


def region_refused(venue: Venue, url: str) -> str:
    """Says that an exchange refuses the caller's region (HTTP 451), and which others may work."""
    others = ", ".join(
        f"--exchange {each.name}"
        for each in VENUES.values()
        if each.name not in (venue.name, TESTNET) and each.channels == venue.channels
    )
    instead = f"These may work from here: {others} (or" if others else "Elsewhere it may work (here"
    return (
        f"{url} answered HTTP 451: this exchange does not serve the region that this machine's address belongs to. "
        f"{instead} --exchange simulator, to try things out)."
    )
