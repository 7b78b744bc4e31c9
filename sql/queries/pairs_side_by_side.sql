-- What was the price of one pair whenever another one's book changed? Each row sees only books received before it.
DECLARE @during := '$now - 1m..$now', @exchange := 'binance', @pair := 'BTCUSDT', @other := 'ETHUSDT'
SELECT a.timestamp, a.mid AS mid, b.mid AS other_mid, b.timestamp AS other_time
FROM (SELECT timestamp, mid FROM mid WHERE timestamp IN @during AND exchange = @exchange AND symbol = @pair) a
ASOF JOIN (SELECT timestamp, mid FROM mid WHERE timestamp IN @during AND exchange = @exchange AND symbol = @other) b;
