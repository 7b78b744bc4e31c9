-- What did the collectors report while a pair was silent? No events beside a gap: the exchange itself was silent.
DECLARE @during := '$today', @pair := 'BTCUSDT', @longer_than := 1
SELECT g.exchange, g.timestamp, g.until, g.seconds, e.timestamp AS event_time, e.kind, e.collector, e.connection, e.detail
FROM gaps g
LEFT JOIN (SELECT * FROM collector_events WHERE timestamp IN @during AND (symbol IS NULL OR symbol = @pair)) e
    ON (e.exchange IS NULL OR e.exchange = g.exchange) AND e.timestamp <= g.until AND coalesce(e.until, e.timestamp) >= g.timestamp
ORDER BY g.timestamp, e.timestamp;
