-- Order books as received, 5 levels a side. Only one of the 001 files is applied: the one of the recorded depth.
CREATE TABLE IF NOT EXISTS orderbook (
    timestamp TIMESTAMP,        -- receive time, UTC, microseconds
    exchange SYMBOL,            -- binance, binance-futures, simulator, …
    symbol SYMBOL CAPACITY 2048,
    collector SYMBOL,           -- which recorder received it
    last_update_id LONG,
    event_time TIMESTAMP,       -- the exchange's own time, NULL where a book comes without one
    bid_1 DOUBLE, bidv_1 DOUBLE,
    bid_2 DOUBLE, bidv_2 DOUBLE,
    bid_3 DOUBLE, bidv_3 DOUBLE,
    bid_4 DOUBLE, bidv_4 DOUBLE,
    bid_5 DOUBLE, bidv_5 DOUBLE,
    ask_1 DOUBLE, askv_1 DOUBLE,
    ask_2 DOUBLE, askv_2 DOUBLE,
    ask_3 DOUBLE, askv_3 DOUBLE,
    ask_4 DOUBLE, askv_4 DOUBLE,
    ask_5 DOUBLE, askv_5 DOUBLE
)
TIMESTAMP(timestamp) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(timestamp, exchange, symbol, collector, last_update_id);
