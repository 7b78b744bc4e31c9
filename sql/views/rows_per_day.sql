-- How many rows did each collector record of each pair on each day (UTC), and when were the first and the last?
-- A WHERE on the pair reaches the table, one on time does not; name the range first, or every day is counted:
--     DECLARE @during := '2024-08-08;7d' SELECT * FROM rows_per_day WHERE symbol = 'BTCUSDT'
CREATE OR REPLACE VIEW rows_per_day AS (
    -- ingester: sql/views/rows_per_day.sql
    DECLARE OVERRIDABLE @during := '1970;300y'
    SELECT timestamp, exchange, symbol, collector, count() AS rows, first(timestamp) AS first_row, last(timestamp) AS last_row
    FROM orderbook
    WHERE timestamp IN @during
    SAMPLE BY 1d
);
