"""What an exchange sends and allows, what it lists, and how it is reached.

venue             what the rest of the program knows of an exchange: `Venue` and `Channel`, without I/O
binance           what Binance's exchanges have in common: requests, answers, lists
binance_spot      Binance's spot market
binance_futures   Binance's USD-M futures
registry          the exchanges that are known by name
pairs             which pairs are recorded: what exchanges list, kept between runs; base and quote of a symbol
dial              TCP, proxy, TLS and websocket upgrade within one deadline
rest              GET requests: limits obeyed, answers bounded, errors in sentences
screening         which pairs are worth recording, by volume and market cap
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
