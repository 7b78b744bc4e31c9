-- Every event says of which exchange it is. The first statement returns a row where this migration was applied.
SELECT "column" FROM table_columns('collector_events') WHERE "column" = 'exchange' AND upsertKey;

ALTER TABLE collector_events ADD COLUMN IF NOT EXISTS exchange SYMBOL;
-- step: name the exchange of each event
ALTER TABLE collector_events DEDUP ENABLE UPSERT KEYS(timestamp, exchange, collector, kind, symbol, connection);
