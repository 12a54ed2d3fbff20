-- Keep messages that are being worked on.
--
-- KEYS[1]  hash, no expiry: unacknowledged
-- KEYS[2]  sorted set, no expiry: its index
-- ARGV     tags
-- Returns  the tags that are no longer unacknowledged: somebody gave them back
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])
local gone = {}
for _, tag in ipairs(ARGV) do
    if redis.call('HEXISTS', KEYS[1], tag) == 1 then
        redis.call('ZADD', KEYS[2], now, tag)
    else
        gone[#gone + 1] = tag
    end
end
return gone
