-- Hand out entries under a lease, in order: what fell due joins the waiting, what was held by a consumer
-- that let its lease end waits again in its old place, and the best of both are taken.
--
-- The ends of the leases are a sorted set, so the dead consumers' entries are found however many fresh
-- ones lie before them, and at a cost that does not grow with what is held.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     catalog version, channel, consumer, most entries, lease in ms, 1 for the lowest priority first
-- Returns  ms until the next one falls due or its lease ends, or -1; then for each entry its key, message
--          id, body, priority, count of deliveries, 1 if it expired; the error STALE where the catalog is newer
if not check_catalog(ARGV[1]) then
    return redis.error_reply('STALE')
end
local base, consumer, most, lease, lowest = base_of(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1'
local levels, leases, returned = base .. ':levels', base .. ':leases', base .. ':returned'
local delayed = base .. ':delayed'

promote(base)
for _, key in ipairs(redis.call('ZRANGE', leases, '-inf', now, 'BYSCORE', 'LIMIT', 0, AT_ONCE)) do
    redis.call('ZREM', leases, key)
    wait_again(base, key)
end

local taken = {-1}
local n_delivered = 0
local function hand_out(priority, id, fields, count)
    local values = {}
    for at = 1, #fields, 2 do
        values[fields[at]] = fields[at + 1]
    end
    local key = priority .. ':' .. string.match(id, '^%d+')
    local expired = values.e ~= '' and tonumber(values.e) <= now
    redis.call('ZADD', leases, now + lease, key)
    for _, value in ipairs({key, values.i, values.b, priority, count, expired and 1 or 0}) do
        taken[#taken + 1] = value
    end
    most = most - 1
    if not expired then
        n_delivered = n_delivered + 1
    end
end

local function best(set)
    local found = redis.call('ZRANGE', set, lowest and -1 or 0, lowest and -1 or 0, 'WITHSCORES')
    return found[1], tonumber(found[2])
end

while most > 0 do
    local key, rank = best(returned)
    local level, level_rank = best(levels)
    if key then
        rank = math.floor(rank / LEVEL)
    end
    if not key and not level then
        break
    end
    -- Within one priority what was held before is older than anything that was not.
    local from_returned = key and (not level or rank == level_rank or (rank < level_rank) ~= lowest)
    if from_returned then
        if lowest then
            key = redis.call('ZRANGE', returned, rank * LEVEL, '+inf', 'BYSCORE', 'LIMIT', 0, 1)[1]
        end
        redis.call('ZREM', returned, key)
        local priority, order = string.match(key, '^(%d+):(%d+)$')
        local stream, id = base .. ':s:' .. priority, order .. '-0'
        local entry = redis.call('XCLAIM', stream, GROUP, consumer, 0, id)[1]
        if entry then
            local count = redis.call('XPENDING', stream, GROUP, id, id, 1)[1][4]
            hand_out(tonumber(priority), id, entry[2], count)
        end
    else
        local asked = most
        local stream = base .. ':s:' .. level
        local read = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', asked, 'STREAMS', stream, '>')
        local entries = read and read[1][2] or {}
        for _, entry in ipairs(entries) do
            hand_out(tonumber(level), entry[1], entry[2], 1)
        end
        if #entries < asked then
            redis.call('ZREM', levels, level)
        end
    end
end

if n_delivered > 0 then
    redis.call('HINCRBY', base, 'delivered', n_delivered)
end
if most > 0 then
    redis.call('DEL', base .. ':wake') -- nothing waits, so the tokens are old
elseif redis.call('EXISTS', levels, returned) > 0 then
    wake(base) -- the token that woke us may have been the last one, and there is more
end
for _, set in ipairs({delayed, leases}) do
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
    if first[1] then
        local left = math.max(0, tonumber(first[2]) - now)
        taken[1] = taken[1] == -1 and left or math.min(taken[1], left)
    end
end
return taken
