-- What was a pair's best price second by second, on a regular grid? The last book of each second, else the one before.
-- `timestamp` is the second's beginning: what stands in its row was known only a second later.
DECLARE @during := '$now - 10m..$now', @exchange := 'binance', @pair := 'BTCUSDT'
SELECT timestamp, last(bid_1) AS bid, last(ask_1) AS ask, count() AS rows
FROM orderbook
WHERE timestamp IN @during AND exchange = @exchange AND symbol = @pair
SAMPLE BY 1s FILL(PREV, PREV, 0);
