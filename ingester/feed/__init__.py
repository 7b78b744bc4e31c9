"""From frames to books, in one thread.

feed   all connections: decodes, drops copies, handles answers
loop   the feed thread: takes what arrived, hands it to a sink, knows the watermark
"""
