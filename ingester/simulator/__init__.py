"""An exchange that speaks Binance's protocol: synthetic books, recordings, faults on demand.

simulator          the thread and its public face
exchange_server    the exchange inside its event loop
session            one client
books, markets     synthetic books and pairs
broadcast, lanes   which book goes to whom, and when
recording, tape, player  recorded books
listing            REST answers
faults, limits     faults on request; the exchange's limits
sent_log           what was really sent
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
