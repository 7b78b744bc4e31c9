-- Every book says of which exchange it is. The first statement returns a row where this migration was applied.
SELECT "column" FROM table_columns('orderbook') WHERE "column" = 'exchange' AND upsertKey;

ALTER TABLE orderbook ADD COLUMN IF NOT EXISTS exchange SYMBOL;
-- step: name the exchange of each book
ALTER TABLE orderbook DEDUP ENABLE UPSERT KEYS(timestamp, exchange, symbol, collector, last_update_id);
