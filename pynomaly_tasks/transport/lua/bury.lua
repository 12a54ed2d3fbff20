-- Move a message that cannot be read to its queue's dead letters.
--
-- KEYS[1]  hash, no expiry: unacknowledged
-- KEYS[2]  sorted set, no expiry: its index
-- KEYS[3]  list, no expiry: dead letters of the queue, newest first
-- ARGV     tag, dead letter
-- Returns  1 when it was moved, 0 when it was no longer ours
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
    return 0
end
redis.call('LPUSH', KEYS[3], ARGV[2])
return 1
