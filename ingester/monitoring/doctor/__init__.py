"""The checks of `ingester doctor`.

check      runs checks at the same time, none longer than it may take
exchange   the way to the exchange
database   the QuestDB and its tables
machine    Python, packages, limits, memory
disk       the data folder and its disk
"""
