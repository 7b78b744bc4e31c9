CREATE TABLE orderbook (
    timestamp TIMESTAMP,
    symbol SYMBOL CAPACITY 2048,
    collector SYMBOL,
    last_update_id LONG,
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
DEDUP UPSERT KEYS(timestamp, symbol, collector, last_update_id);
CREATE TABLE collector_events (
    timestamp TIMESTAMP,
    collector SYMBOL,
    kind SYMBOL,
    symbol SYMBOL CAPACITY 2048,
    connection SYMBOL,
    detail VARCHAR,
    until TIMESTAMP
)
TIMESTAMP(timestamp) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(timestamp, collector, kind, symbol, connection);
