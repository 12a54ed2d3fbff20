#!lua
-- Append a batch of records, all or none: a server that is full refuses the script before it begins.
--
-- KEYS[1]   hash, no expiry: how many records each partition was given
-- KEYS[2..] streams, no expiry, trimmed by trim.lua: one a partition
-- ARGV      for each record: number of its stream in KEYS[2..] from 1, how many fields and values
--           follow, and these
-- Returns   how many records were appended
local counts, n_records, i = {}, 0, 1
while i <= #ARGV do
    local stream, n_words = KEYS[1 + tonumber(ARGV[i])], tonumber(ARGV[i + 1])
    local count = (counts[stream] or tonumber(redis.call('HGET', KEYS[1], stream)) or 0) + 1
    local entry = {'XADD', stream, '*', 'n', string.format('%.0f', count)}
    for word = i + 2, i + 1 + n_words do
        entry[#entry + 1] = ARGV[word]
    end
    local id = redis.call(unpack(entry))
    -- An offset has 20 bits for the number within a millisecond. Redis exceeds that only after its
    -- clock went back, when it counts on in the last millisecond it knows: go on with the next one.
    local at_ms, number = string.match(id, '^(%d+)-(%d+)$')
    if tonumber(number) > 1048575 then
        redis.call('XDEL', stream, id)
        entry[3] = string.format('%.0f-0', tonumber(at_ms) + 1)
        redis.call(unpack(entry))
    end
    counts[stream] = count
    n_records = n_records + 1
    i = i + 2 + n_words
end
for stream, count in pairs(counts) do
    redis.call('HSET', KEYS[1], stream, string.format('%.0f', count))
end
return n_records
