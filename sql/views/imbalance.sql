-- Which side offered more, from -1 (only asks) to 1 (only bids), at the best level and over five?
-- Levels that a thin book lacks count as nothing; NULL while a side is empty.
CREATE OR REPLACE VIEW imbalance AS (
    -- ingester: sql/views/imbalance.sql
    SELECT timestamp, exchange, symbol, collector, last_update_id,
           (bidv_1 - askv_1) / (bidv_1 + askv_1) AS imbalance_1,
           (bids - asks) / (bids + asks) AS imbalance_5
    FROM (
        SELECT timestamp, exchange, symbol, collector, last_update_id, bidv_1, askv_1,
               bidv_1 + coalesce(bidv_2, 0) + coalesce(bidv_3, 0) + coalesce(bidv_4, 0) + coalesce(bidv_5, 0) AS bids,
               askv_1 + coalesce(askv_2, 0) + coalesce(askv_3, 0) + coalesce(askv_4, 0) + coalesce(askv_5, 0) AS asks
        FROM orderbook
    )
);
