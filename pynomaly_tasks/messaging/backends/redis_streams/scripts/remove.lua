-- Remove an entry of priority 0 that was never handed out, and put what follows in the same step.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     channel, id in the stream, then for each entry that follows: channel, message id, body,
--          priority, delay in ms, ttl in ms or ''
-- Returns  1, or 0 where there is no such entry
local base, id = base_of(ARGV[1]), ARGV[2]
local stream = base .. ':s:0'
if redis.call('XDEL', stream, id) == 0 then
    return 0
end
redis.call('HINCRBY', base, 'depth', -1)
redis.call('HINCRBY', base, 'purged', 1)
for follow = 3, #ARGV, 6 do
    put(unpack(ARGV, follow, follow + 5))
end
return 1
