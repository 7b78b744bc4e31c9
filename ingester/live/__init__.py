"""Live books for readers in this process.

buffer        the newest books and events
ring          the newest rows of one pair, read without locks
consumer      takes each row once, at its own pace
callbacks     calls a user's functions from threads of their own
subscribers   all consumers and callbacks of a recorder
synchronous   rows of several pairs on one grid, as they come
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
