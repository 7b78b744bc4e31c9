"""Live books for readers in this process.

buffer        the newest rows or books of all pairs, and events
ring          the newest rows of one pair, read without locks
subscribers   consumers and callbacks, which get each row once
synchronous   rows of several pairs on one grid, as they come
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
