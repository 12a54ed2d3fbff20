-- Give back messages of consumers that renewed them no more. The newest go first, so that the oldest
-- ends up first in its list.
--
-- KEYS[1]  hash, no expiry: unacknowledged
-- KEYS[2]  sorted set, no expiry: its index
-- KEYS[3]  hash, expires in an hour: when somebody last ran this (at), and until when to hold back (hold)
-- ARGV     lease in s, how long to hold back after a silence in s, mark of our tags, entries to look
--          at, how many of the oldest to leave out, when the caller began to renew its own
-- Returns  how many were looked at, how many went back; -1 first while holding back, or where the
--          caller stood still since it renewed: what it would give back may be its own
local lease = tonumber(ARGV[1])
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local pulse = redis.call('HMGET', KEYS[3], 'at', 'hold')
local hold = tonumber(pulse[2] or '0')
-- Nobody asked for a while: the server stood still or could not be reached, and the consumers could not
-- renew. They get the time to do so. A clock set back counts as a silence too.
local silence = now - tonumber(pulse[1] or '0')
if silence > lease / 2 or silence < 0 then
    hold = now + tonumber(ARGV[2])
end
redis.call('HSET', KEYS[3], 'at', string.format('%.6f', now), 'hold', string.format('%.6f', hold))
redis.call('EXPIRE', KEYS[3], 3600)
if now < hold or now - tonumber(ARGV[6]) > lease / 2 then
    return {-1, 0}
end
local tags = redis.call('ZREVRANGEBYSCORE', KEYS[2], string.format('(%.6f', now - lease), '-inf',
    'LIMIT', ARGV[5], ARGV[4])
local n_returned = 0
for _, tag in ipairs(tags) do
    if string.sub(tag, 1, #ARGV[3]) == ARGV[3] then
        n_returned = n_returned + give_back(tag, 'RPUSH')
    end
end
return {#tags, n_returned}
