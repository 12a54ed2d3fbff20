-- Drop a record of the catalog.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     name
-- Returns  1, or 0 where there was none
local catalog = ns .. ':catalog'
if redis.call('HDEL', catalog, ARGV[1]) == 0 then
    return 0
end
return redis.call('HINCRBY', catalog, '', 1) > 0 and 1
