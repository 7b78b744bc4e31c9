"""GET requests to an exchange: limits are kept, answers checked, errors told in words."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
import urllib3

from ingester.errors import ExchangeError, RateLimited, RegionRefused, cause
from ingester.exchange import binance

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

PATIENCE_SECONDS = 60.0
"""How long a request waits that the exchange wants to be repeated later."""
DEFAULT_WAIT_SECONDS = 30.0
"""Where the exchange does not say how long to wait."""
TOO_MANY, BANNED = 429, 418  # binance.py, rule 9


def get(
    url: str,
    form: type[Answer],
    exchange: str,
    timeout: float = 10.0,
    patience: float = PATIENCE_SECONDS,
    wait: Callable[[float], None] = time.sleep,
) -> Answer:
    """The JSON answer to a GET as `form`; numbers may be written as texts. `exchange` is for the error's words.

    HTTP 429 and 418 are obeyed: the request is repeated once after what `Retry-After` says, up to `patience` seconds.
    Raises RegionRefused on HTTP 451, RateLimited, and ExchangeError when the exchange cannot be asked.
    """
    answer = _request(url, timeout)
    if answer.status in (TOO_MANY, BANNED) and (seconds := _retry_after(answer)) <= patience:
        log.info("%s answered HTTP %d; asked again after %.0f s", url, answer.status, seconds)
        wait(seconds)
        answer = _request(url, timeout)
    if answer.status in (TOO_MANY, BANNED):
        seconds = _retry_after(answer)
        raise RateLimited(
            f"{url} answered HTTP {answer.status}: too many requests from this address. Try again in {seconds:.0f} s.",
            seconds,
        )
    if answer.status == 451:
        raise RegionRefused(binance.region_refused(exchange, url))
    if answer.status != 200:
        raise ExchangeError(f"{url} answered HTTP {answer.status}: {answer.data[:200].decode(errors='replace')}")
    try:
        return msgspec.json.decode(answer.data, type=form, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExchangeError(f"{url} did not answer as Binance does: {error}") from error


def _request(url: str, timeout: float) -> urllib3.BaseHTTPResponse:
    retries = urllib3.Retry(1, redirect=3, backoff_factor=0.5, respect_retry_after_header=False)
    try:
        return urllib3.request("GET", url, timeout=timeout, retries=retries)
    except urllib3.exceptions.HTTPError as error:
        raise ExchangeError(f"{url} cannot be reached: {cause(error)}") from error


def _retry_after(answer: urllib3.BaseHTTPResponse) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", DEFAULT_WAIT_SECONDS)))
    except ValueError:
        return DEFAULT_WAIT_SECONDS
