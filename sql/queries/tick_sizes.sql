-- When did an exchange change the tick size of a pair? Every change of its listing since recording began.
DECLARE @exchange := 'binance', @pair := 'BTCUSDT'
SELECT timestamp, exchange, symbol, status, tick_size, step_size
FROM instruments
WHERE exchange = @exchange AND symbol = @pair
ORDER BY timestamp;
