#!lua flags=allow-oom
-- Forget a group that is gone for good, so that its offsets keep no more records.
--
-- KEYS[1]   hash that expires: its members
-- KEYS[2]   hash that expires: its leases
-- KEYS[3]   hash, no expiry: its offsets
-- KEYS[4]   stream of one entry that expires: its changes
-- KEYS[5..] sets, no expiry: the groups of each topic
-- ARGV      group
-- Returns   -1 while a member lives, 0 where there is no such group, else 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, member in ipairs(redis.call('HVALS', KEYS[1])) do
    if tonumber(string.match(member, '^%d+')) >= now then
        return -1
    end
end
local known = redis.call('DEL', KEYS[3])
for i = 5, #KEYS do
    known = known + redis.call('SREM', KEYS[i], ARGV[1])
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[4])
return known > 0 and 1 or 0
