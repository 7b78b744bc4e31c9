-- How much did a pair move, minute by minute? Realised volatility: root of the summed squared log returns of seconds.
DECLARE @during := '$now - 1h..$now', @pair := 'BTCUSDT'
SELECT timestamp_floor('1m', timestamp) AS timestamp, exchange, symbol, sqrt(sum(step * step)) AS volatility, count() AS seconds
FROM (
    SELECT timestamp, exchange, symbol, ln(close) - ln(lag(close) OVER (PARTITION BY exchange, symbol ORDER BY timestamp)) AS step
    FROM bars_1s
    WHERE close IS NOT NULL
)
GROUP BY timestamp_floor('1m', timestamp), exchange, symbol
ORDER BY timestamp;
