-- A book has the exchange's own time as well. The first statement returns a row where this migration was applied.
SELECT "column" FROM table_columns('orderbook') WHERE "column" = 'event_time';

ALTER TABLE orderbook ADD COLUMN IF NOT EXISTS event_time TIMESTAMP;
