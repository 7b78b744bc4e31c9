-- When was a pair silent for longer than its own rhythm allows, whoever recorded it?
-- A pause is a gap where it is longer than ten mean intervals and than a second: the mean of the last fifty intervals of
-- the collector that brought the row before it, none counted as longer than a minute; one minute after the first row.
-- This is the rule of the recorder, of coverage and of manifests. @longer_than leaves out shorter gaps (seconds).
-- `timestamp` is the last row before the gap, `until` the first one after it; what precedes the first row of a range or
-- follows its last is not counted.
-- A WHERE does not reach the table; name range and pair (or a pattern: '%USDT') first, or all rows are read:
--     DECLARE @during := '2024-08-08', @longer_than := 5 SELECT * FROM gaps ORDER BY seconds DESC
CREATE OR REPLACE VIEW gaps AS (
    -- ingester: sql/views/gaps.sql
    DECLARE OVERRIDABLE @during := '1970;300y', OVERRIDABLE @pair := '%', OVERRIDABLE @longer_than := 1
    WITH steps AS (
        SELECT timestamp, exchange, symbol, collector,
               lag(timestamp) OVER (PARTITION BY exchange, symbol ORDER BY timestamp) AS previous,
               timestamp - lag(timestamp) OVER (PARTITION BY exchange, symbol, collector ORDER BY timestamp) AS step
        FROM orderbook
        WHERE timestamp IN @during AND symbol LIKE @pair
    ), rhythms AS (
        SELECT timestamp, exchange, symbol, previous,
               count(step) OVER (PARTITION BY exchange, symbol, collector ORDER BY timestamp
                   ROWS BETWEEN 49 PRECEDING AND CURRENT ROW) AS known,
               sum(CASE WHEN step > 60000000 THEN 60000000 ELSE step END)
                   OVER (PARTITION BY exchange, symbol, collector ORDER BY timestamp
                   ROWS BETWEEN 49 PRECEDING AND CURRENT ROW) AS total
        FROM steps
    )
    SELECT previous AS timestamp, exchange, symbol, received AS until, (received - previous) / 1e6 AS seconds
    FROM (
        SELECT timestamp AS received, exchange, symbol, previous,
               lag(known) OVER (PARTITION BY exchange, symbol ORDER BY timestamp) AS known,
               lag(total) OVER (PARTITION BY exchange, symbol ORDER BY timestamp) AS total
        FROM rhythms
    )
    WHERE received - previous > 1000000 AND received - previous > 1e6 * @longer_than
      AND (known = 0 AND received - previous > 60000000 OR known > 0 AND (received - previous) * known > 10 * total)
);
