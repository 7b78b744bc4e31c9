-- What did a pair's book look like at one moment? The last one received until then, at most an hour old.
DECLARE @pair := 'BTCUSDT', @at := now()
SELECT * FROM orderbook
WHERE symbol = @pair AND timestamp > dateadd('h', -1, @at) AND timestamp <= @at
ORDER BY timestamp DESC
LIMIT 1;
