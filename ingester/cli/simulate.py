"""`ingester simulate`: an exchange to practise with."""

import signal
import threading
from pathlib import Path

import click

from ingester.cli.options import named_symbols, pair_options
from ingester.exchange.simulated.faults import parse_fault
from ingester.exchange.simulated.simulator import Simulator


@click.command(short_help="Run an artificial exchange that speaks Binance's protocol.")
@pair_options("44 well-known ones")
@click.option("--port", type=click.IntRange(0, 65535), default=9443, show_default=True, help="0 takes a free one.")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Play a recording of '<receive time in ns> <json>' lines; may be given several times.",
)
@click.option(
    "--speed", type=click.FloatRange(min=0.0), default=1.0, show_default=True, help="0: as fast as it is read."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Other books for another number.")
@click.option("--burst", is_flag=True, help="Send all pairs at the start of each 100 ms, instead of spread over it.")
@click.option(
    "--fault", "faults", multiple=True, metavar="KIND[:PAIR]@START[+LASTING]", help="drop@10s, silence:BTCUSDT@5s+3s, …"
)
def simulate(
    coins: str | None,
    quote: str,
    pairs: str | None,
    port: int,
    files: tuple[Path, ...],
    speed: float,
    seed: int,
    burst: bool,
    faults: tuple[str, ...],
) -> None:
    """Serves order books over Binance's websocket and REST protocol on 127.0.0.1 until Ctrl-C.

    \b
    Examples:
      ingester simulate --pairs BTCUSDT,ETHUSDT
      ingester start --stream-url ws://127.0.0.1:9443 --rest-url http://127.0.0.1:9443
      ingester simulate --file btcusdt.jsonl.gz --speed 10
    """
    wanted, _ = named_symbols(coins, quote, pairs)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Simulator(
        pairs=() if files and coins is None and pairs is None else wanted,
        seed=seed,
        port=port,
        files=files,
        speed=speed,
        spread=not burst,
        faults=[parse_fault(text) for text in faults],
    ) as simulator:
        click.echo(f"--stream-url {simulator.stream_url} --rest-url {simulator.rest_url}")
        stop.wait()
        click.echo(f"{simulator.stats()['frames']} frames sent")
