"""How many coins are in circulation: from the exchange's list of products, or from a file."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import msgspec

from ingester.errors import SettingsError
from ingester.exchange import rest
from ingester.exchange.binance_spot import BINANCE

PRODUCTS = "/bapi/asset/v2/public/asset-service/product/get-products"
DEFAULT_SOURCE = f"https://www.binance.com{PRODUCTS}"
COLUMNS = ("coin", "circulating_supply")


class Supplies(NamedTuple):
    """By coin, what circulates of it, where that is known; and the pairs of leveraged tokens, where that is said."""

    coins: dict[str, float]
    leveraged: frozenset[str] = frozenset()


class _Product(msgspec.Struct):
    """The fields that matter here: `s` symbol, `b` base, `cs` circulating supply, `etf` a leveraged token."""

    s: str
    b: str
    cs: float | None = None
    etf: bool | None = None


class _Products(msgspec.Struct):
    data: list[_Product]


_decode_products = msgspec.json.Decoder(_Products, strict=False).decode


def fetch_supplies(source: str, timeout: float = 20.0) -> Supplies:
    """From a URL or a CSV file with the columns `coin` and `circulating_supply`.

    Raises ExchangeError where the URL does not answer as it should, SettingsError naming the line of a file.
    """
    if source.startswith(("http://", "https://")):
        products = rest.get(source, _decode_products, BINANCE, timeout=timeout).data
        coins: dict[str, float] = {}
        for product in products:
            if product.cs and math.isfinite(product.cs) and product.cs > 0:
                coins.setdefault(product.b, product.cs)
        return Supplies(coins, frozenset(product.s for product in products if product.etf))
    return Supplies(read_supplies(Path(source)))


def read_supplies(path: Path) -> dict[str, float]:
    """What circulates of each coin, from a CSV file. Raises SettingsError naming the line."""
    coins: dict[str, float] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not set(COLUMNS) <= set(rows.fieldnames or ()):
                raise SettingsError(f"{path} does not begin with the names of the columns: {','.join(COLUMNS)}.")
            for row in rows:
                coin, text = (str(row[name] or "").strip() for name in COLUMNS)
                if not coin and not text:
                    continue
                coins[coin.upper()] = _supply(coin, text, f"{path}, line {rows.line_num}")
    except OSError as error:
        raise SettingsError(
            f"--supply-source {str(path)!r} cannot be read ({error.strerror}). Name a CSV file or an http(s) address."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path} is no CSV file in UTF-8: {error}.") from error
    return coins


def _supply(coin: str, text: str, place: str) -> float:
    try:
        supply = float(text.replace("_", ""))
    except ValueError:
        supply = math.nan
    if not coin.isalnum() or not (math.isfinite(supply) and supply > 0):
        raise SettingsError(
            f"{place}: expected a coin and how many there are, such as BTC,19700000; got {coin},{text}."
        )
    return supply
