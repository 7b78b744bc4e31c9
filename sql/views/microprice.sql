-- Where did the best level's quantities put the price between bid and ask? NULL while a side is empty.
-- Each price is weighted by the other side's quantity: many bids pull it towards the ask.
CREATE OR REPLACE VIEW microprice AS (
    -- ingester: sql/views/microprice.sql
    SELECT timestamp, exchange, symbol, collector, last_update_id,
           (bid_1 * askv_1 + ask_1 * bidv_1) / (bidv_1 + askv_1) AS microprice,
           (bid_1 + ask_1) / 2 AS mid
    FROM orderbook
);
