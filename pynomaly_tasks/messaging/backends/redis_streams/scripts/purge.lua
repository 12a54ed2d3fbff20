-- Remove what waits or is delayed; what is held stays with its holder.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     channel
-- Returns  how many entries were removed
local base, n = base_of(ARGV[1]), 0
local function drop_key(key)
    local priority, order = string.match(key, '^(%d+):(%d+)$')
    drop(base, base .. ':s:' .. priority, order .. '-0', key)
    n = n + 1
end

for _, member in ipairs(redis.call('ZRANGE', base .. ':delayed', 0, -1)) do
    if string.sub(member, 1, 1) == 'd' then
        redis.call('HINCRBY', base, 'depth', -1)
        n = n + 1
    else
        drop_key(member)
    end
end
redis.call('DEL', base .. ':delayed', base .. ':later')
for _, key in ipairs(redis.call('ZRANGE', base .. ':leases', '-inf', now, 'BYSCORE')) do
    drop_key(key)
end
for _, key in ipairs(redis.call('ZRANGE', base .. ':returned', 0, -1)) do
    drop_key(key)
end
for _, level in ipairs(redis.call('ZRANGE', base .. ':levels', 0, -1)) do
    local stream = base .. ':s:' .. level
    local group = redis.call('XINFO', 'GROUPS', stream)[1]
    local last
    for at = 1, #group, 2 do
        if group[at] == 'last-delivered-id' then
            last = group[at + 1]
        end
    end
    while true do
        local entries = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1000)
        for _, entry in ipairs(entries) do
            redis.call('XDEL', stream, entry[1])
            redis.call('HINCRBY', base, 'depth', -1)
            n = n + 1
        end
        if #entries < 1000 then
            break
        end
    end
end
redis.call('DEL', base .. ':levels')
redis.call('HINCRBY', base, 'purged', n)
return n
