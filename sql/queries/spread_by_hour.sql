-- At which hours is a pair cheap to trade? Mean and widest spread in basis points.
DECLARE @during := '$today', @exchange := 'binance', @pair := 'BTCUSDT'
SELECT timestamp, avg(spread_bps) AS mean_bps, max(spread_bps) AS widest_bps, count() AS rows
FROM spread
WHERE timestamp IN @during AND exchange = @exchange AND symbol = @pair
SAMPLE BY 1h;
