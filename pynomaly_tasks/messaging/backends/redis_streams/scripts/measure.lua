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
local from_now = '(' .. string.format('%d', now)
local n_held = redis.call('ZCOUNT', base .. ':leases', from_now, '+inf')
local n_delayed = redis.call('ZCOUNT', base .. ':delayed', from_now, '+inf')
return {n_held, n_delayed, now - oldest, unpack(counts)}
