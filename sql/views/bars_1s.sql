-- How did mid and spread move, second by second? Open, high, low and close of the mid, mean spread, number of books.
-- Copies from several collectors are merged as in `books`; open and close go by update id. A book with an empty side
-- counts in `rows` but not in the prices. Seconds without a book have no bar.
-- A WHERE does not reach below the bars; name range and pair (or a pattern: '%USDT') first, or all rows are read:
--     DECLARE @during := '2024-08-08T12', @pair := 'BTCUSDT' SELECT * FROM bars_1s
CREATE OR REPLACE VIEW bars_1s AS (
    -- ingester: sql/views/bars_1s.sql
    DECLARE OVERRIDABLE @during := '1970;300y', OVERRIDABLE @pair := '%', @window := 60000000
    WITH received AS (
        SELECT timestamp, exchange, symbol, collector, last_update_id, bid_1, ask_1,
               lag(timestamp) OVER (PARTITION BY exchange, symbol, last_update_id ORDER BY timestamp) AS copy_of,
               lag(timestamp) OVER (PARTITION BY exchange, symbol, collector ORDER BY timestamp) AS own_at,
               lag(last_update_id) OVER (PARTITION BY exchange, symbol, collector ORDER BY timestamp) AS own_id
        FROM orderbook
        WHERE timestamp IN @during AND symbol LIKE @pair
    ), told AS (
        SELECT *,
               CASE WHEN collector <> 'import' AND (copy_of IS NULL OR timestamp - copy_of > @window)
                    THEN last_update_id END AS counted_id,
               sum(CASE WHEN collector <> 'import' AND last_update_id < own_id AND timestamp - own_at <= @window
                        THEN 1 ELSE 0 END)
                   OVER (PARTITION BY exchange, symbol ORDER BY timestamp ROWS UNBOUNDED PRECEDING) AS counts
        FROM received
    ), firsts AS (
        SELECT *, max(counted_id) OVER (PARTITION BY exchange, symbol, counts ORDER BY timestamp
                      RANGE BETWEEN '60' SECOND PRECEDING AND '1' MICROSECOND PRECEDING) AS newer_id
        FROM told
    )
    SELECT timestamp_floor('1s', timestamp) AS timestamp, exchange, symbol,
           arg_min(mid, priced_id) AS open, max(mid) AS high, min(mid) AS low, arg_max(mid, priced_id) AS close,
           avg(spread) AS spread, count() AS rows
    FROM (
        SELECT timestamp, exchange, symbol, (bid_1 + ask_1) / 2 AS mid, ask_1 - bid_1 AS spread,
               CASE WHEN bid_1 IS NOT NULL AND ask_1 IS NOT NULL THEN last_update_id END AS priced_id
        FROM firsts
        WHERE (copy_of IS NULL OR timestamp - copy_of > @window)
          AND (counted_id IS NULL OR newer_id IS NULL OR counted_id >= newer_id)
    )
    GROUP BY timestamp_floor('1s', timestamp), exchange, symbol
    ORDER BY timestamp
);
