-- What every step starts with. KEYS[1] is the namespace <ns>; the other keys follow from it, so this is
-- for one Redis server, not for a cluster. Time is the server's, in whole milliseconds.
--
--   <ns>:catalog          hash, no expiry: name of a record -> record; the field '' counts the changes
--   <ns>:notes:<key>      set, expires as its note says: members noted under the key
--   <ns>:order            number, no expiry: order of the last entry of any channel; it outlives a channel, so
--                         that a holder cannot settle an entry of a later channel of the same name
-- and of each channel, <c> being <ns>:c:<name>:
--   <c>                   hash, no expiry: depth, the counts, and its epoch: which channel of that name it is
--   <c>:s:<priority>      stream, no expiry, never trimmed: entries, waiting and held, until they are settled;
--                         id <order>-0, fields i (message id), b (body), t (put at), e (expires at, or '');
--                         its group `work` knows who holds what, and how often it was handed out
--   <c>:levels            sorted set, no expiry: priorities with entries that nobody took yet, by 255 - priority
--   <c>:leases            sorted set, no expiry: held entries, <priority>:<order>, by the end of their lease
--   <c>:returned          sorted set, no expiry: entries that were held once and wait again, in handing order
--   <c>:delayed           sorted set, no expiry: what is not due, by when it is: d<number>, packed in <c>:later,
--                         or <priority>:<order> of an entry that was given back
--   <c>:later             hash, no expiry: d<number> -> entry
--   <c>:wake              list, 60 s: tokens for consumers that wait
--   <c>:dup:<epoch>:<key> string, expires with its window: deduplication keys
local ns = KEYS[1]
local GROUP = 'work'
local LEVEL = 17592186044416 -- 2^44: a score is 255 - priority, then the order; exact in a double
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function base_of(channel)
    return ns .. ':c:' .. channel
end

local function wake(base)
    local list = base .. ':wake'
    local n = redis.call('LPUSH', list, 1)
    if n == 1 then
        redis.call('EXPIRE', list, 60)
    elseif n > 100 then
        redis.call('RPOP', list)
    end
end

local function enqueue(base, priority, id, body, put_at, expires)
    local order = redis.call('INCR', ns .. ':order')
    local stream = base .. ':s:' .. priority
    if redis.call('EXISTS', stream) == 0 then
        redis.call('XGROUP', 'CREATE', stream, GROUP, 0, 'MKSTREAM')
    end
    redis.call('XADD', stream, order .. '-0', 'i', id, 'b', body, 't', put_at, 'e', expires)
    redis.call('ZADD', base .. ':levels', 255 - priority, priority)
    wake(base)
end

-- What fell due takes its place behind what was put before it fell due, and before what comes now. What
-- falls due at once and is more than AT_ONCE waits for the next steps: none may hold the server for long.
-- The removal comes first, as everywhere: a server that is full lets a step go on that has written.
local AT_ONCE = 1000

local function wait_again(base, key)
    local priority, order = string.match(key, '^(%d+):(%d+)$')
    redis.call('ZADD', base .. ':returned', (255 - priority) * LEVEL + order, key)
end

local function promote(base)
    local delayed = base .. ':delayed'
    for _, member in ipairs(redis.call('ZRANGE', delayed, '-inf', now, 'BYSCORE', 'LIMIT', 0, AT_ONCE)) do
        redis.call('ZREM', delayed, member)
        if string.sub(member, 1, 1) == 'd' then
            local entry = cmsgpack.unpack(redis.call('HGET', base .. ':later', member))
            redis.call('HDEL', base .. ':later', member)
            enqueue(base, entry[1], entry[2], entry[3], string.format('%d', now), entry[4])
        else
            wait_again(base, member)
        end
    end
end

local function put(channel, id, body, priority, delay, ttl)
    local base = base_of(channel)
    local expires = ttl == '' and '' or string.format('%d', now + ttl)
    redis.call('HINCRBY', base, 'depth', 1)
    redis.call('HINCRBY', base, 'sent', 1)
    if tonumber(delay) > 0 then
        local member = string.format('d%015d', redis.call('HINCRBY', base, 'n_delayed', 1))
        redis.call('HSET', base .. ':later', member, cmsgpack.pack({priority, id, body, expires}))
        redis.call('ZADD', base .. ':delayed', now + delay, member)
        wake(base) -- whoever waits must know when it falls due
    else
        promote(base)
        enqueue(base, priority, id, body, string.format('%d', now), expires)
    end
end

-- The stream and the entry's id, when `consumer` holds the entry in its `count`th delivery.
local function held(base, key, consumer, count)
    local priority, order = string.match(key, '^(%d+):(%d+)$')
    local stream, id = base .. ':s:' .. priority, order .. '-0'
    local pending = redis.pcall('XPENDING', stream, GROUP, id, id, 1)
    if pending.err or not pending[1] or pending[1][2] ~= consumer or pending[1][4] ~= tonumber(count) then
        return nil
    end
    return stream, id
end

-- Drop an entry that lies in its stream.
local function drop(base, stream, id, key)
    redis.call('XACK', stream, GROUP, id)
    redis.call('XDEL', stream, id)
    redis.call('ZREM', base .. ':leases', key)
    redis.call('ZREM', base .. ':returned', key)
    redis.call('HINCRBY', base, 'depth', -1)
end

local function check_catalog(version)
    return tonumber(redis.call('HGET', ns .. ':catalog', '') or 0) == tonumber(version)
end
