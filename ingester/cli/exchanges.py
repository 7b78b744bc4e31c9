"""Options that say whose books or pairs are meant, and the exchange that they name."""

from collections.abc import Callable

import click

from ingester.capture.source import SIMULATOR
from ingester.cli.options import Command
from ingester.exchange import binance

_stream_url = click.option("--stream-url", metavar="URL", help="Websocket base instead of the exchange's own.")
_rest_url = click.option("--rest-url", metavar="URL", help="REST base instead of the exchange's own.")


def exchange_options(purpose: str) -> Callable[[Command], Command]:
    """`--exchange`, the simulator among them, `--stream-url` and `--rest-url`; `purpose` is the first one's help."""

    def decorate(command: Command) -> Command:
        return _exchange([*binance.EXCHANGES, SIMULATOR], purpose)(_stream_url(_rest_url(command)))

    return decorate


def listing_options(command: Command) -> Command:
    """`--exchange` and `--rest-url`, for commands that ask what is listed."""
    return _exchange(list(binance.EXCHANGES), "Whose pairs.")(_rest_url(command))


def exchange_at(name: str, stream_url: str | None, rest_url: str | None) -> binance.Exchange:
    """What these options name, where it is not a simulator of our own."""
    preset = binance.EXCHANGES.get(name) or binance.Exchange(SIMULATOR, "", "")
    return binance.Exchange(preset.name, stream_url or preset.stream_url, rest_url or preset.rest_url)


def is_our_own(name: str, stream_url: str | None, rest_url: str | None) -> bool:
    """Whether these options mean a simulator inside the recorder."""
    return name == SIMULATOR and not (stream_url and rest_url)


def _exchange(names: list[str], purpose: str) -> Callable[[Command], Command]:
    return click.option("--exchange", type=click.Choice(names), default="binance", show_default=True, help=purpose)
