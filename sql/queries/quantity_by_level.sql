-- How much is on offer at each level of a pair's book, on average, and how far apart are bid and ask there?
DECLARE @during := '$now - 10m..$now', @exchange := 'binance', @pair := 'BTCUSDT'
WITH chosen AS (SELECT * FROM orderbook WHERE timestamp IN @during AND exchange = @exchange AND symbol = @pair)
SELECT 1 AS level, avg(bidv_1) AS bid_quantity, avg(askv_1) AS ask_quantity, avg(ask_1 - bid_1) AS distance FROM chosen
UNION ALL SELECT 2, avg(bidv_2), avg(askv_2), avg(ask_2 - bid_2) FROM chosen
UNION ALL SELECT 3, avg(bidv_3), avg(askv_3), avg(ask_3 - bid_3) FROM chosen
UNION ALL SELECT 4, avg(bidv_4), avg(askv_4), avg(ask_4 - bid_4) FROM chosen
UNION ALL SELECT 5, avg(bidv_5), avg(askv_5), avg(ask_5 - bid_5) FROM chosen;
