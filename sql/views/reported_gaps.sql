-- Which gaps did the collectors themselves notice, on which connection, for how long and why?
-- Without a pair, the gap is one of the whole connection.
CREATE OR REPLACE VIEW reported_gaps AS (
    -- ingester: sql/views/reported_gaps.sql
    SELECT timestamp, exchange, symbol, until, (until - timestamp) / 1e6 AS seconds, collector, connection, detail
    FROM collector_events
    WHERE kind = 'gap'
);
