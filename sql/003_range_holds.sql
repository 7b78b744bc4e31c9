-- Who works on a range of time: what `ingester retention` must leave alone, and what it changes itself. A holder renews
-- `expires` while it lives; who was killed holds nothing two minutes later.
CREATE TABLE IF NOT EXISTS range_holds (
    timestamp TIMESTAMP,        -- since when, by the server's clock
    holder VARCHAR,             -- host, process
    purpose SYMBOL,             -- export, import, retention
    since TIMESTAMP,            -- the range [since, until)
    until TIMESTAMP,
    expires TIMESTAMP
)
TIMESTAMP(timestamp) PARTITION BY DAY TTL 7 DAYS WAL
DEDUP UPSERT KEYS(timestamp, holder);
