-- Forget consumers that hold nothing and were not seen for an hour. One that holds something stays: to
-- delete it would lose what it holds.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     channel
-- Returns  how many were forgotten
local n = 0
for priority = 0, 255 do
    local stream = base_of(ARGV[1]) .. ':s:' .. priority
    if redis.call('EXISTS', stream) == 1 then
        for _, facts in ipairs(redis.call('XINFO', 'CONSUMERS', stream, GROUP)) do
            local consumer = {}
            for at = 1, #facts, 2 do
                consumer[facts[at]] = facts[at + 1]
            end
            if consumer.pending == 0 and consumer.idle > 3600000 then
                redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer.name)
                n = n + 1
            end
        end
    end
end
return n
