"""Which books pass, and what is missing between them.

gap_detector   one symbol: which books pass, its rhythm, its gaps
monitor        all symbols: gaps and states become events, the exchange is asked about silent symbols
event_counts   events counted by kind, gaps by reason
"""
