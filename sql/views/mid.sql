-- Where was the middle between best bid and best ask, book by book? NULL while a side is empty.
CREATE OR REPLACE VIEW mid AS (
    -- ingester: sql/views/mid.sql
    SELECT timestamp, exchange, symbol, collector, last_update_id, (bid_1 + ask_1) / 2 AS mid
    FROM orderbook
);
