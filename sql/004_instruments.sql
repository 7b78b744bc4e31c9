-- What each exchange listed, and since when: a pair has a new row whenever its listing changed. No exchange sells the
-- history of its tick sizes.
CREATE TABLE IF NOT EXISTS instruments (
    timestamp TIMESTAMP,        -- when the recorder saw it, UTC, microseconds
    exchange SYMBOL,
    symbol SYMBOL CAPACITY 2048,
    base SYMBOL CAPACITY 2048,
    quote SYMBOL,
    status SYMBOL,              -- TRADING, HALT, BREAK, …, or `not listed`
    tick_size DOUBLE,           -- the smallest step of a price
    step_size DOUBLE            -- the smallest step of a quantity
)
TIMESTAMP(timestamp) PARTITION BY YEAR WAL
DEDUP UPSERT KEYS(timestamp, exchange, symbol);
