-- Take messages from the queues and record each as unacknowledged, in one step: there is no moment at
-- which a message is in neither place. Acknowledgements that wait are settled on the way.
--
-- KEYS[1]  hash, no expiry: unacknowledged, tag -> [message,exchange,routing key] as kombu writes it
-- KEYS[2]  sorted set, no expiry: the same tags by the server's time of their last renewal
-- KEYS[3 .. 2+n_queues]  lists, expire by themselves: wake tokens of the queues
-- then n_queues keys a priority, best priority first: the queues' lists, which expire as declared
-- ARGV     tag prefix, number of the first tag, most messages to take, n_queues, 1 to empty a queue
--          before the next one is looked at (0: one of each in turn), then the end of the record for
--          each queue, then tags to acknowledge
-- Returns  for each message the number of its list (0 is the first) and its bytes
local prefix, number, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local n_queues, in_order = tonumber(ARGV[4]), ARGV[5] == '1'
local now = redis.call('TIME')
now = now[1] .. '.' .. string.format('%06d', now[2])

if #ARGV > 5 + n_queues then
    redis.call('HDEL', KEYS[1], unpack(ARGV, 6 + n_queues))
    redis.call('ZREM', KEYS[2], unpack(ARGV, 6 + n_queues))
end

local taken = {}
local function take(list, queue)
    local message = redis.call('RPOP', list)
    if not message then
        return false
    end
    -- The pop comes first: a server that is full lets a script go on that has written, so a worker
    -- can still empty it.
    local tag = string.format('%s%012d:%s', prefix, number + #taken / 2, list)
    redis.call('HSET', KEYS[1], tag, '[' .. message .. ARGV[5 + queue])
    redis.call('ZADD', KEYS[2], now, tag)
    return message
end

local first_list = 2 + n_queues
for priority = 0, (#KEYS - first_list) / n_queues - 1 do
    local empty, n_empty, queue = {}, 0, 1
    while n_empty < n_queues and #taken < 2 * limit do
        if not empty[queue] then
            local index = priority * n_queues + queue - 1
            local message = take(KEYS[first_list + index + 1], queue)
            if message then
                taken[#taken + 1] = index
                taken[#taken + 1] = message
            else
                empty[queue] = true
                n_empty = n_empty + 1
            end
        end
        if not in_order or empty[queue] then
            queue = queue % n_queues + 1
        end
    end
end
if #taken < 2 * limit then
    -- Everything was empty, so the tokens are old; a message that comes later brings its own.
    redis.call('DEL', unpack(KEYS, 3, 2 + n_queues))
end
return taken
