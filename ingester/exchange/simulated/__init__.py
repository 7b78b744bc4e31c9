"""An exchange that speaks Binance's protocol: synthetic books, recordings, faults on demand."""

from ingester.exchange.simulated.simulator import Simulator

__all__ = ["Simulator"]
