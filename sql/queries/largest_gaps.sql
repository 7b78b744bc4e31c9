-- When were pairs silent for longest today?
DECLARE @during := '$today', @longer_than := 1
SELECT exchange, symbol, timestamp, until, seconds
FROM gaps
ORDER BY seconds DESC, timestamp
LIMIT 20;
