-- What happened to the recorders: starts, stops, connects, disconnects, gaps. `until` ends what `timestamp` began.
CREATE TABLE IF NOT EXISTS collector_events (
    timestamp TIMESTAMP,        -- UTC, microseconds
    exchange SYMBOL,
    collector SYMBOL,
    kind SYMBOL,
    symbol SYMBOL CAPACITY 2048,
    connection SYMBOL,
    detail VARCHAR,
    until TIMESTAMP
)
TIMESTAMP(timestamp) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(timestamp, exchange, collector, kind, symbol, connection);
