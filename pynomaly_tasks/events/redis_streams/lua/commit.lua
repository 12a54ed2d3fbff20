#!lua flags=allow-oom
-- Write down how far a group is, unless another member reads the partition now. Never backwards: what
-- an earlier owner says late is known already.
--
-- KEYS[1]  hash that expires: the leases
-- KEYS[2]  hash, no expiry: "<topic>:<partition>" -> id of the first entry not applied
-- ARGV     member, then field and id, alternating
-- Returns  the fields that another member holds; of these nothing was written
local function is_later(id, than)
    local a_ms, a_number = string.match(id, '^(%d+)-(%d+)$')
    local b_ms, b_number = string.match(than, '^(%d+)-(%d+)$')
    a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
    return a_ms > b_ms or (a_ms == b_ms and tonumber(a_number) > tonumber(b_number))
end
local lost = {}
for i = 2, #ARGV, 2 do
    local field, id = ARGV[i], ARGV[i + 1]
    local lease = redis.call('HGET', KEYS[1], field)
    if lease and string.match(lease, '^%d+ (.*)$') ~= ARGV[1] then
        lost[#lost + 1] = field
    else
        local before = redis.call('HGET', KEYS[2], field)
        if not before or is_later(id, before) then
            redis.call('HSET', KEYS[2], field, id)
        end
    end
end
return lost
