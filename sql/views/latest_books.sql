-- What is the newest book of every pair at each exchange?
-- Reads back to the last row of the pair that has been silent for longest; name a range to leave such pairs out:
--     DECLARE @during := '$now - 1h..$now' SELECT * FROM latest_books
CREATE OR REPLACE VIEW latest_books AS (
    -- ingester: sql/views/latest_books.sql
    DECLARE OVERRIDABLE @during := '1970;300y'
    SELECT * FROM orderbook
    WHERE timestamp IN @during
    LATEST ON timestamp PARTITION BY exchange, symbol
);
