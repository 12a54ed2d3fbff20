-- Count a channel.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     channel
-- Returns  held, delayed, age of the oldest in ms, then the fields of its hash and their values
local base, oldest = base_of(ARGV[1]), now
for priority = 0, 255 do
    local entry = redis.call('XRANGE', base .. ':s:' .. priority, '-', '+', 'COUNT', 1)[1]
    if entry then
        oldest = math.min(oldest, tonumber(entry[2][6]))
    end
end
local counts = redis.call('HGETALL', base)
local held_now = redis.call('ZCOUNT', base .. ':leases', '(' .. string.format('%d', now), '+inf')
return {held_now, redis.call('ZCARD', base .. ':delayed'), now - oldest, unpack(counts)}
