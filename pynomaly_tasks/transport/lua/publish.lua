-- Put messages into a list and wake as many idle workers, once: a repetition with the same number does
-- nothing, so that a lost answer can be answered by trying again.
--
-- KEYS[1]  list, expires as declared: the queue's messages of one priority
-- KEYS[2]  list, expires by ARGV[4]: wake tokens of the queue
-- KEYS[3]  string, expires by ARGV[2]: the last number that this publisher's slot used
-- KEYS[4..]  lists of the queue that expire by ARGV[5]
-- ARGV     number, s, most tokens, s, ms or 0, then the messages
-- Returns  1 when they were put there, 0 when they had been before
local last = redis.call('GET', KEYS[3])
if last and tonumber(last) >= tonumber(ARGV[1]) then
    return 0
end
local n_messages = #ARGV - 5
for i = 6, #ARGV, 1000 do
    redis.call('LPUSH', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
local n_tokens = math.min(n_messages, tonumber(ARGV[3]) - redis.call('LLEN', KEYS[2]))
for _ = 1, n_tokens do
    redis.call('LPUSH', KEYS[2], '')
end
redis.call('EXPIRE', KEYS[2], ARGV[4])
if ARGV[5] ~= '0' then
    for i = 4, #KEYS do
        redis.call('PEXPIRE', KEYS[i], ARGV[5])
    end
end
return 1
