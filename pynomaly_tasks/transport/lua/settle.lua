-- Acknowledge: forget messages. Done twice it is done once.
--
-- KEYS[1]  hash, no expiry: unacknowledged
-- KEYS[2]  sorted set, no expiry: its index
-- ARGV     tags, 4,000 at most
redis.call('HDEL', KEYS[1], unpack(ARGV))
redis.call('ZREM', KEYS[2], unpack(ARGV))
