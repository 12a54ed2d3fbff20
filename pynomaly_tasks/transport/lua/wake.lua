-- Wake idle workers of a queue.
--
-- KEYS[1]  list, expires by ARGV[3]: wake tokens of the queue
-- ARGV     how many workers, most tokens, s
local n_tokens = math.min(tonumber(ARGV[1]), tonumber(ARGV[2]) - redis.call('LLEN', KEYS[1]))
for _ = 1, n_tokens do
    redis.call('LPUSH', KEYS[1], '')
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return n_tokens
