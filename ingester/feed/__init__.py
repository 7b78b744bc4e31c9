"""From frames to books, in one thread.

feed   all connections: decodes, drops copies, handles answers
loop   the feed thread: takes what arrived, hands it to a sink, knows the watermark
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
