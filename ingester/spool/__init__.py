"""The write-ahead log between the feed and QuestDB. It knows nothing of order books.

spool        append, read, acknowledge, resend
segment      one file: format, CRC, scan
index        which records wait and which are acknowledged
checkpoint   what is acknowledged, on disk
recovery     what a folder holds after a crash
syncer       the thread that makes appended records durable
disk         lock, free space, reserve, files that are replaced whole
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
