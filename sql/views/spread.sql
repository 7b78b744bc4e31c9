-- How far apart were best bid and best ask, in quote currency and in basis points of the mid? NULL if a side is empty.
CREATE OR REPLACE VIEW spread AS (
    -- ingester: sql/views/spread.sql
    SELECT timestamp, exchange, symbol, collector, last_update_id, bid_1, ask_1,
           ask_1 - bid_1 AS spread,
           20000 * (ask_1 - bid_1) / (ask_1 + bid_1) AS spread_bps
    FROM orderbook
);
