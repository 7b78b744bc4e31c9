-- How far was a pair's futures price from its spot price? Each futures book beside the last spot book received before it.
DECLARE @during := '$now - 1m..$now', @pair := 'BTCUSDT', @spot := 'binance', @futures := 'binance-futures'
SELECT f.timestamp, f.mid AS futures_mid, s.mid AS spot_mid, 10000 * (f.mid - s.mid) / s.mid AS basis_bps
FROM (SELECT timestamp, mid FROM mid WHERE timestamp IN @during AND exchange = @futures AND symbol = @pair) f
ASOF JOIN (SELECT timestamp, mid FROM mid WHERE timestamp IN @during AND exchange = @spot AND symbol = @pair) s;
