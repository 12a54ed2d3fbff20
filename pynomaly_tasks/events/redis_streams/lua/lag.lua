#!lua
-- How many records of each partition a group has still to apply.
--
-- KEYS[1]   hash, no expiry: how many records each partition was given
-- KEYS[2]   hash, no expiry: the group's offsets
-- KEYS[3..] streams, no expiry: the partitions
-- ARGV      the partitions' fields in KEYS[2]
-- Returns   a number for each partition
local lags = {}
for i, field in ipairs(ARGV) do
    local stream = KEYS[2 + i]
    local lag = redis.call('XLEN', stream)
    local offset = redis.call('HGET', KEYS[2], field)
    -- Each entry carries its number. Where nothing before the offset is left, all that is there is due.
    local applied = offset and redis.call('XREVRANGE', stream, '(' .. offset, '-', 'COUNT', '1')[1]
    if applied and applied[2][1] == 'n' then
        lag = tonumber(redis.call('HGET', KEYS[1], stream) or 0) - tonumber(applied[2][2])
    end
    lags[i] = lag
end
return lags
