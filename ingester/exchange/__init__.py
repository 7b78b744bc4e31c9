"""What an exchange sends and allows, what it lists, and how it is reached.

binance_spot   the spot streams of Binance without I/O: addresses, limits, requests, what a frame says
pairs          which pairs are recorded: exchange info, validation; base and quote of a symbol
listings       what exchanges list, kept between runs
dial           TCP, proxy, TLS and websocket upgrade within one deadline
rest           GET requests: limits obeyed, answers bounded, errors in sentences
retry_after    how long the exchange wants to be left alone
screening      which pairs are worth recording
supplies       how many coins are in circulation
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
