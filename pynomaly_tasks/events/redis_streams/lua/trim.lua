#!lua flags=allow-oom
-- Remove entries that are older than they need be kept and that every group has applied.
--
-- KEYS[1]  stream, no expiry: one partition
-- KEYS[2]  set, no expiry: the groups that read its topic
-- ARGV     "<topic>:<partition>", age in ms, most entries to remove
-- Reads    events:group:<group>:offsets of each of these groups: hash, no expiry
-- Returns  how many entries were removed; a node of the stream stays until all of it may go
local time = redis.call('TIME')
local before_ms = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[2])
local before, before_number = before_ms, 0
for _, group in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    local applied = redis.call('HGET', 'events:group:' .. group .. ':offsets', ARGV[1]) or '0-0'
    local at_ms, number = string.match(applied, '^(%d+)-(%d+)$')
    at_ms, number = tonumber(at_ms), tonumber(number)
    if at_ms < before or (at_ms == before and number < before_number) then
        before, before_number = at_ms, number
    end
end
local id = string.format('%.0f-%.0f', before, before_number)
return redis.call('XTRIM', KEYS[1], 'MINID', '~', id, 'LIMIT', ARGV[3])
