"""Options that say whose books or pairs are meant, and the exchange that they name."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import click

from ingester.cli.options import Command
from ingester.errors import SettingsError
from ingester.exchange import SIMULATOR, VENUES, NotConnected, Venue, rightly_named, simulator_at, tls_context

_stream_url = click.option("--stream-url", metavar="URL", help="Websocket base instead of the exchange's own.")


def _usable(_context: click.Context, _option: click.Parameter, ca_file: Path | None) -> Path | None:
    if ca_file is not None:
        try:
            tls_context(ca_file)
        except NotConnected as error:
            raise SettingsError(str(error)) from error
    return ca_file


_exchange_ca = click.option(
    "--exchange-ca",
    callback=_usable,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificates (PEM) to trust for the exchange.  [default: those that the system trusts]",
)
_rest_url = click.option("--rest-url", metavar="URL", help="REST base instead of the exchange's own.")


def exchange_options(purpose: str) -> Callable[[Command], Command]:
    """`--exchange`, the simulator among them, and where it is reached; `purpose` is the first one's help."""

    def decorate(command: Command) -> Command:
        return _exchange([*VENUES, SIMULATOR], purpose)(_stream_url(_rest_url(_exchange_ca(command))))

    return decorate


def listing_options(command: Command) -> Command:
    """`--exchange`, `--rest-url` and `--exchange-ca`, for commands that ask what is listed."""
    return _exchange(list(VENUES), "Whose pairs.")(_rest_url(_exchange_ca(command)))


def exchange_at(name: str, stream_url: str | None, rest_url: str | None, ca_file: Path | None) -> Venue:
    """What these options name, where it is not a simulator of our own."""
    venue = VENUES.get(name) or simulator_at("", "")
    return rightly_named(venue.at(stream_url=stream_url, rest_url=rest_url, ca_file=ca_file))


def listing_at(name: str, rest_url: str | None, ca_file: Path | None) -> Venue:
    """Whom commands ask what is listed; another address than the exchange's own is called by its host."""
    chosen = exchange_at(name, None, rest_url, ca_file)
    host, own = (
        urlsplit(url).netloc.rpartition("@")[2]
        for url in (chosen.rest_url, exchange_at(name, None, None, None).rest_url)
    )
    return chosen if host == own else dataclasses.replace(chosen, name=host, market=host)


def is_our_own(name: str, stream_url: str | None, rest_url: str | None) -> bool:
    """Whether these options mean a simulator inside the recorder."""
    return name == SIMULATOR and not (stream_url and rest_url)


def _exchange(names: list[str], purpose: str) -> Callable[[Command], Command]:
    return click.option("--exchange", type=click.Choice(names), default="binance", show_default=True, help=purpose)
