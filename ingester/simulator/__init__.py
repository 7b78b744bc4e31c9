"""An exchange that speaks Binance's protocols, spot and USD-M futures: synthetic books, recordings, faults on demand.

simulator        the thread and its public face
exchange_server  the exchange inside its event loop
session          one client
markets          the two markets: paths, stream names, payloads, limits
rest_answers     what it answers to REST requests
books            synthetic books
recording        recorded books
broadcast        which book goes to whom, and when; what was sent
faults           faults on request
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
