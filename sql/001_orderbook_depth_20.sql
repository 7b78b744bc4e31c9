-- Order books as received, 20 levels a side. Only one of the 001 files is applied: the one of the recorded depth.
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
    bid_6 DOUBLE, bidv_6 DOUBLE,
    bid_7 DOUBLE, bidv_7 DOUBLE,
    bid_8 DOUBLE, bidv_8 DOUBLE,
    bid_9 DOUBLE, bidv_9 DOUBLE,
    bid_10 DOUBLE, bidv_10 DOUBLE,
    bid_11 DOUBLE, bidv_11 DOUBLE,
    bid_12 DOUBLE, bidv_12 DOUBLE,
    bid_13 DOUBLE, bidv_13 DOUBLE,
    bid_14 DOUBLE, bidv_14 DOUBLE,
    bid_15 DOUBLE, bidv_15 DOUBLE,
    bid_16 DOUBLE, bidv_16 DOUBLE,
    bid_17 DOUBLE, bidv_17 DOUBLE,
    bid_18 DOUBLE, bidv_18 DOUBLE,
    bid_19 DOUBLE, bidv_19 DOUBLE,
    bid_20 DOUBLE, bidv_20 DOUBLE,
    ask_1 DOUBLE, askv_1 DOUBLE,
    ask_2 DOUBLE, askv_2 DOUBLE,
    ask_3 DOUBLE, askv_3 DOUBLE,
    ask_4 DOUBLE, askv_4 DOUBLE,
    ask_5 DOUBLE, askv_5 DOUBLE,
    ask_6 DOUBLE, askv_6 DOUBLE,
    ask_7 DOUBLE, askv_7 DOUBLE,
    ask_8 DOUBLE, askv_8 DOUBLE,
    ask_9 DOUBLE, askv_9 DOUBLE,
    ask_10 DOUBLE, askv_10 DOUBLE,
    ask_11 DOUBLE, askv_11 DOUBLE,
    ask_12 DOUBLE, askv_12 DOUBLE,
    ask_13 DOUBLE, askv_13 DOUBLE,
    ask_14 DOUBLE, askv_14 DOUBLE,
    ask_15 DOUBLE, askv_15 DOUBLE,
    ask_16 DOUBLE, askv_16 DOUBLE,
    ask_17 DOUBLE, askv_17 DOUBLE,
    ask_18 DOUBLE, askv_18 DOUBLE,
    ask_19 DOUBLE, askv_19 DOUBLE,
    ask_20 DOUBLE, askv_20 DOUBLE
)
TIMESTAMP(timestamp) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(timestamp, exchange, symbol, collector, last_update_id);
