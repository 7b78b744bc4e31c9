-- What did a pair's book look like at one moment? The last one received until then, at most an hour old.
DECLARE @exchange := 'binance', @pair := 'BTCUSDT', @at := now()
SELECT * FROM orderbook
WHERE exchange = @exchange AND symbol = @pair AND timestamp > dateadd('h', -1, @at) AND timestamp <= @at
ORDER BY timestamp DESC
LIMIT 1;
