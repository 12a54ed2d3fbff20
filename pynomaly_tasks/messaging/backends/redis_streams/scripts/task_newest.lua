-- List tasks, newest first.
--
-- KEYS[1]  namespace; the keys are in channel.lua and tasks.lua
-- ARGV     how many at most
-- Returns  their ids
forget_old()
return redis.call('ZRANGE', ns .. ':tasks', 0, ARGV[1] - 1, 'REV')
