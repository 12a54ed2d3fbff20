-- Keep a record of the catalog unless there is one.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     name, record
-- Returns  the record that stands
local catalog = ns .. ':catalog'
if redis.call('HSETNX', catalog, ARGV[1], ARGV[2]) == 1 then
    redis.call('HINCRBY', catalog, '', 1)
end
return redis.call('HGET', catalog, ARGV[1])
