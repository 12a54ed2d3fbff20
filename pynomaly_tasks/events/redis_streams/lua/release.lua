#!lua flags=allow-oom
-- Give up partitions, or leave the group, and wake the members that take over.
--
-- KEYS[1]  hash that expires: the members
-- KEYS[2]  hash that expires: the leases
-- KEYS[3]  stream of one entry, expires after an hour: wakes the members
-- ARGV     member, 1 to leave the group with all it holds (0: to stay), then the fields to give up
-- Returns  how many leases it gave up
local n_released = 0
local function release(field)
    local lease = redis.call('HGET', KEYS[2], field)
    if lease and string.match(lease, '^%d+ (.*)$') == ARGV[1] then
        redis.call('HDEL', KEYS[2], field)
        n_released = n_released + 1
    end
end
if ARGV[2] == '1' then
    redis.call('HDEL', KEYS[1], ARGV[1])
    for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
        release(field)
    end
else
    for i = 3, #ARGV do
        release(ARGV[i])
    end
end
redis.call('XADD', KEYS[3], 'MAXLEN', '1', '*', 'member', ARGV[1])
redis.call('PEXPIRE', KEYS[3], 3600000)
return n_released
