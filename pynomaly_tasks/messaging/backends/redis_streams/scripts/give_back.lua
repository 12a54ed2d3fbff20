-- Let a held entry wait again, in its old place: at once, or when a delay has passed.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     consumer, channel, key, count of deliveries, delay in ms, 1 to count this delivery
-- Returns  1, or 0 where another consumer holds the entry or has settled it
local base, key, count = base_of(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local stream, id = held(base, key, ARGV[1], count)
if not stream then
    return 0
end
redis.call('ZREM', base .. ':leases', key)
redis.call('ZREM', base .. ':returned', key)
if ARGV[6] == '1' then
    redis.call('HINCRBY', base, 'requeued', 1)
else
    count = count - 1
end
-- To nobody, so that the old holder cannot settle it any more.
redis.call('XCLAIM', stream, GROUP, '-', 0, id, 'RETRYCOUNT', count, 'JUSTID')
if tonumber(ARGV[5]) > 0 then
    redis.call('ZADD', base .. ':delayed', now + ARGV[5], key)
else
    wait_again(base, key)
end
wake(base)
return 1
