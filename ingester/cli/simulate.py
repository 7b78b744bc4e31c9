"""`ingester simulate`: an exchange to practise with, and one that plays what was recorded."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ingester.book import OrderBook
from ingester.cli.options import data_options, exchange_of_table_option, named_symbols, open_questdb, pair_options
from ingester.cli.terminal import say, stop_signals
from ingester.clock import SECOND
from ingester.datasets import WINDOW_NS, check_range, dataset, select_rows
from ingester.questdb import PLAYBACK, Endpoint, holding
from ingester.simulator import Simulator, Tape, parse_fault, tape_of_file, tape_of_snapshots
from ingester.text import counted


class _Speed(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            speed = 0.0 if value == "max" else float(value)
        except ValueError:
            speed = -1.0
        if not 0 <= speed < float("inf"):
            self.fail(f"{value!r} is neither a number such as 1, 10 or 0.5 nor max.", param, ctx)
        return speed


@click.command(short_help="Run an artificial exchange that speaks Binance's protocol, or plays recordings.")
@pair_options("44 well-known ones; of a recording all")
@click.option("--port", type=click.IntRange(0, 65535), default=9443, show_default=True, help="0 takes a free one.")
@click.option("--from", "start", metavar="TIME", help="Play what the table holds from then on: 2023-06-01 12:00; UTC.")
@click.option("--to", "end", metavar="TIME", help="The first moment no longer played, or now.")
@exchange_of_table_option
@click.option(
    "--dataset",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Play a data set, the folder that export wrote; --from and --to take a part of it.",
)
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Play a recording of '<receive time in ns> <json>' lines; may be given several times.",
)
@click.option(
    "--speed", type=_Speed(), default=1.0, show_default=True, metavar="X|max", help="max (or 0): as fast as it is read."
)
@click.option("--loop", is_flag=True, help="Play from the beginning again at the end; update ids go on rising.")
@click.option("--seed", type=int, default=0, show_default=True, help="Other books for another number.")
@click.option("--burst", is_flag=True, help="Send all pairs at the start of each 100 ms, instead of spread over it.")
@click.option(
    "--fault", "faults", multiple=True, metavar="KIND[:PAIR]@START[+LASTING]", help="drop@10s, silence:BTCUSDT@5s+3s, …"
)
@data_options
def simulate(
    coins: str | None,
    quote: str,
    pairs: str | None,
    port: int,
    start: str | None,
    end: str | None,
    exchange: str | None,
    folder: Path | None,
    files: tuple[Path, ...],
    speed: float,
    loop: bool,
    seed: int,
    burst: bool,
    faults: tuple[str, ...],
    data_dir: Path,
    questdb: Endpoint | None,
) -> None:
    """Serves order books over Binance's websocket and REST protocols on 127.0.0.1 until Ctrl-C: spot and USD-M futures.

    They are made up, or were recorded: in the table (--from, --to), in a data set (--dataset) or in a file (--file).
    What was recorded begins with the first subscription and keeps its timing; all connections share its clock. After
    its end connections stay open and silent, as those of an exchange at rest.

    \b
    Examples:
      ingester simulate --pairs BTCUSDT,ETHUSDT
      ingester start --stream-url ws://127.0.0.1:9443 --rest-url http://127.0.0.1:9443
      ingester start --exchange binance-futures --stream-url ws://127.0.0.1:9443 --rest-url http://127.0.0.1:9443
      ingester simulate --from '2024-08-08 12:00' --to '2024-08-08 13:00' --coins BTC,ETH
      ingester simulate --dataset "hft data/extracted datasets/from_(…)_to_(…)" --speed max
      ingester simulate --file btcusdt.jsonl.gz --speed 10 --loop
    """
    wanted, by_user = named_symbols(coins, quote, pairs)
    ranged = start is not None or end is not None
    if files and (folder or ranged):
        raise click.UsageError("--file plays a whole recording; --dataset, --from and --to play something else.")
    if ranged and folder is None and (start is None or end is None):
        raise click.UsageError("--from and --to say together which range of the table is played; one is missing.")
    tapes: list[Tape] = []
    if folder is not None:
        tapes = [_of_dataset(folder, start, end, wanted if by_user else None)]
    elif start is not None and end is not None:
        tapes = [_of_table(start, end, wanted if by_user else None, exchange, data_dir, questdb)]
    tapes += [tape_of_file(file) for file in files]
    if loop and not tapes:
        raise click.UsageError("--loop repeats a recording: name one with --from and --to, --dataset or --file.")
    _serve(
        Simulator(
            pairs=() if tapes and not (files and by_user) else wanted,
            seed=seed,
            port=port,
            tapes=[tape._replace(loop=loop) for tape in tapes],
            speed=speed,
            spread=not burst,
            faults=[parse_fault(text) for text in faults],
        )
    )


def _of_table(
    start: str, end: str, named: list[str] | None, exchange: str | None, data_dir: Path, questdb: Endpoint | None
) -> Tape:
    from ingester.datasets import table_snapshots

    start_ns, end_ns = dataset.parse_time(start, "--from"), dataset.parse_time(end, "--to")
    check_range(start_ns, end_ns)
    db, _ = open_questdb(data_dir, questdb)
    click.get_current_context().with_resource(holding(db, PLAYBACK, start_ns, end_ns))
    near = (start_ns - WINDOW_NS, end_ns + WINDOW_NS)
    _, only, counts, symbols = select_rows(db, start_ns, end_ns, exchange=exchange, symbols=named, near=near)
    return _tape(start_ns, end_ns, symbols, partial(table_snapshots, db, start_ns, end_ns, symbols, counts, only))


def _of_dataset(folder: Path, start: str | None, end: str | None, named: list[str] | None) -> Tape:
    from ingester.datasets import dataset_snapshots, open_dataset

    since = dataset.parse_time(start, "--from") if start else None
    until = dataset.parse_time(end, "--to") if end else None
    data = open_dataset(folder).select(pairs=named).between(since, until)
    for pair in data.pairs:  # an unreadable file is an error before clients connect
        data.rows(pair)
    return _tape(data.start_ns, data.end_ns, data.pairs, partial(dataset_snapshots, data))


def _tape(start_ns: int, end_ns: int, symbols: Sequence[str], snapshots: Callable[[], Iterator[OrderBook]]) -> Tape:
    name = f"{dataset.time_text(start_ns)} to {dataset.time_text(end_ns)}"
    click.echo(f"plays {name}, {counted(len(symbols), 'pair')}, from the first subscription on")
    return tape_of_snapshots(name, symbols, snapshots)


def _serve(simulator: Simulator) -> None:
    with stop_signals() as stop, simulator:
        click.echo(f"--stream-url {simulator.stream_url} --rest-url {simulator.rest_url}")
        _follow(simulator, stop)
        say(f"{simulator.stats()['frames']} frames sent")


def _follow(simulator: Simulator, stop: threading.Event) -> None:
    """Waits for the end, and shows the position of recordings: on a terminal always, elsewhere at their end."""
    console, told = Console(stderr=True), 0
    with console.status("") as status:  # shown on a terminal only
        while not simulator.failed and not stop.wait(0.1):
            at = simulator.position_ns
            where = f"{dataset.time_text(at // SECOND * SECOND)}, {simulator.played:,} books; " if at else ""
            status.update(f"{where}connections: {len(simulator.connections)}")
            if simulator.rounds > told:
                told = simulator.rounds
                after = "connections stay open and silent" if simulator.finished else "it begins again"
                status.stop()
                say(f"played to the end, {simulator.played:,} books so far; {after}. Ctrl-C ends.")
                status.start()
