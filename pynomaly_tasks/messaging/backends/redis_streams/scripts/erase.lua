-- Remove a channel, with what is held.
--
-- KEYS[1]  namespace; the keys are in channel.lua. Windows of deduplication keys expire by themselves
-- ARGV     channel
local base = base_of(ARGV[1])
wake(base)
for priority = 0, 255 do
    redis.call('UNLINK', base .. ':s:' .. priority)
end
return redis.call(
    'UNLINK', base, base .. ':levels', base .. ':leases', base .. ':returned', base .. ':delayed', base .. ':later'
)
