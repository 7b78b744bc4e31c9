-- Which collector received a book first, and by how many milliseconds? Over the books that both of them recorded.
DECLARE @during := '$now - 1h..$now', @first := 'one', @second := 'two'
SELECT a.exchange, a.symbol, count() AS books, sum(CASE WHEN a.timestamp < b.timestamp THEN 1 ELSE 0 END) AS first_won,
       avg(b.timestamp - a.timestamp) / 1000 AS first_ahead_ms
FROM (SELECT * FROM orderbook WHERE timestamp IN @during AND collector = @first) a
JOIN (SELECT * FROM orderbook WHERE timestamp IN @during AND collector = @second) b
    ON a.exchange = b.exchange AND a.symbol = b.symbol AND a.last_update_id = b.last_update_id
GROUP BY a.exchange, a.symbol
ORDER BY a.exchange, a.symbol;
