"""The examples run as they are shown, on recorded books; the environment keeps the contract of Gymnasium."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from books_in_table import RECORDING, flat, snapshots_of
from data_sets import NOON, make
from gymnasium.utils.env_checker import check_env

from ingester import open_dataset
from ingester.clock import SECOND
from ingester.grid import Sampler
from ingester.simulator import Simulator
from ingester.simulator.books import book, update_id

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from order_book_env import Live, OrderBookEnv, Recorded, Row  # noqa: E402
from train_imbalance import fit  # noqa: E402

EVERY = 100_000_000
ROWS = 3400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The recorded BTCUSDT on a grid, beside a made ETHUSDT; as if they had come at another time."""
    books = list(snapshots_of(RECORDING, "BTCUSDT"))
    times, values = np.array([each.receive_ns for each in books]), np.array([flat(each) for each in books])
    recorded = Sampler(20, SECOND).take(times, values, times[0] + EVERY * np.arange(ROWS))
    ids = [update_id(0, "ETHUSDT", 10**10 + tick) for tick in range(ROWS)]
    made = np.array([book(0, "ETHUSDT", each, 5) for each in ids], float).reshape(ROWS, 20)
    grid = NOON + EVERY * np.arange(ROWS)
    pairs = {"BTCUSDT": (grid, recorded), "ETHUSDT": (grid, made)}
    gaps = {"BTCUSDT": [(NOON + 100 * SECOND, NOON + 101 * SECOND)]}
    return make(tmp_path_factory.mktemp("sets"), "npz", pairs, EVERY, gaps, span_ns=ROWS * EVERY, levels=5)


def run(name, *options, code=0):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, options)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_the_environment_keeps_the_contract_of_gymnasium(folder):
    check_env(OrderBookEnv(Recorded(open_dataset(folder), 30)), skip_render_check=True)


class Given:
    """A source of known rows."""

    pairs, levels = ("BTCUSDT",), 1

    def __init__(self, *books, length=None):
        self.books, self.length = books, length or len(books)

    def rows(self, random):
        return iter([Row(at, np.array([[bid, 1.0, ask, 3.0]])) for at, (bid, ask) in enumerate(self.books)])


def test_the_reward_is_what_the_position_gained_less_spread_and_fee():
    env = OrderBookEnv(Given((99.0, 101.0), (103.0, 105.0), (98.0, 100.0), (98.0, 100.0)), fee_bps=10.0)
    observation, info = env.reset(seed=1)
    assert info == {"time": 0}
    assert observation == pytest.approx([-100, np.log1p(99.0), 100, np.log1p(303.0), 0])
    steps = [env.step(np.int64(action)) for action in (2, 0, 1)]
    rewards, ends = [step[1] for step in steps], [step[3] for step in steps]
    assert rewards == pytest.approx([(4 - 1.1) * 100, (5 - 2 * 1.104) / 104 * 1e4, -1.099 / 99 * 1e4])
    assert ends == [False, False, True]
    assert [step[0][-1] for step in steps] == [1, -1, 0]


def test_an_episode_that_breaks_off_trades_nothing_more():
    env = OrderBookEnv(Given((99.0, 101.0), length=5))
    env.reset(seed=1)
    assert env.step(np.int64(2))[1:4] == (0.0, False, True)
    with pytest.raises(RuntimeError, match="no episode"):
        OrderBookEnv(Given(length=5)).reset()


def test_the_same_environment_runs_on_live_books():
    from ingester import Recorder

    pairs = ("BTCUSDT", "ETHUSDT")
    with (
        Simulator(pairs=pairs) as exchange,
        Recorder(pairs=pairs, depth=5, stream_url=exchange.stream_url, rest_url=exchange.rest_url) as recorder,
    ):
        env = OrderBookEnv(Live(recorder, pairs, 5, "100ms", 8))
        for _ in range(2):
            observation, info = env.reset()
            times, over = [info["time"]], False
            while not over:
                assert observation in env.observation_space
                assert (np.abs(observation[:-1]) > 0).all()  # each number is there
                observation, _, _, over, info = env.step(env.action_space.sample())
                times.append(info["time"])
            assert np.diff(times).tolist() == [EVERY] * 7
            assert times[0] % EVERY == 0


def test_the_environment_is_shown_with_two_policies(folder):
    shown = run("order_book_env.py", folder, "--length", 50, "--episodes", 4)
    by_chance, imbalance = (
        float(re.search(rf"{name}: ([+-][\d.]+) basis", shown)[1]) for name in ("chance", "imbalance")
    )
    assert by_chance < imbalance
    assert "196 steps" in shown
    assert "give the folder" in run("order_book_env.py", code=2)


def test_a_picture_is_drawn(folder, tmp_path):
    output = tmp_path / "x.png"
    assert run("plot_book.py", folder, "--pair", "BTC_USDT", "--output", output).strip() == str(output)
    assert output.read_bytes().startswith(b"\x89PNG")
    assert output.stat().st_size > 50_000


def test_the_imbalance_of_the_recorded_books_tells_more_than_the_baseline(folder):
    shown = run("train_imbalance.py", folder, "--pair", "BTCUSDT")
    accuracy, baseline = (float(re.search(rf"{name} ([\d.]+)%", shown)[1]) for name in ("accuracy", "baseline"))
    assert baseline < accuracy < 90
    assert "shorter --horizon" in run("train_imbalance.py", folder, "--horizon", 5000, code=1)


def test_the_regression_finds_what_is_there_and_nothing_in_noise():
    chance = np.random.default_rng(0)
    inputs = chance.normal(size=(4000, 3))
    rises = chance.random(4000) < 1 / (1 + np.exp(-(inputs @ [2.0, -1.0, 0.0] + 0.5)))
    assert fit(inputs, rises) == pytest.approx([2.0, -1.0, 0.0, 0.5], abs=0.15)
    assert np.abs(fit(inputs, chance.random(4000) < 0.5)).max() < 0.1


def test_what_the_documentation_shows_of_data_sets_runs(folder):
    shown = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "docs" / "datasets.md").read_text(), re.DOTALL)
    names = {"folder": folder}
    exec("\n".join(shown), names)
    assert names["values"].shape == (100, 2, 20)
    assert names["small"].features == ("Bid_1", "BidV_1", "Ask_1", "AskV_1")
