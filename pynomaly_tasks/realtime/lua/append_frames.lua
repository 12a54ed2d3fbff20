-- Append the frames of events to the live streams, each event once: its mark and its entry are one step.
--
-- KEYS[1]    sorted set, expires by ARGV[1]: events that were appended, by when
-- KEYS[2..]  streams without expiry, each held at about ARGV[3] entries
-- ARGV       s, most marks, entries, then for each event: its key, the place of its stream in KEYS, its frame
-- Returns    how many were appended now
local now = tonumber(redis.call('TIME')[1])
local n_new = 0
for i = 4, #ARGV, 3 do
    if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
        redis.call('XADD', KEYS[tonumber(ARGV[i + 1])], 'MAXLEN', '~', ARGV[3], '*', 'data', ARGV[i + 2])
        redis.call('ZADD', KEYS[1], now, ARGV[i])
        n_new = n_new + 1
    end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - tonumber(ARGV[1])))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -(tonumber(ARGV[2]) + 1))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return n_new
