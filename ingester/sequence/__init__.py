"""Which books pass, and what is missing between them.

gap_detector    one symbol: which books pass, its rhythm, its gaps
gap_rule        when a pause is a gap
previous_count  the ids of a count that was restarted, which connections that lag still bring
monitor         all symbols: gaps and states become events, the exchange is asked about silent symbols
event_counts    events counted by kind, gaps by reason
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
