-- What give_back_tags.lua and give_back_expired.lua share; it stands before each of them.

-- Say in the message that it was delivered before, where kombu says it. The bytes are not decoded and
-- encoded again, which would change numbers and empty lists; a mark that the decoder cannot read
-- afterwards is left out, and a message over 1 MB is not looked at.
local function mark(message)
    local marked = message
    if #message > 1000000 then
        return message
    end
    for _, name in ipairs({'headers', 'delivery_info'}) do
        local _, open = string.find(marked, '"' .. name .. '"%s*:%s*{')
        local rest = open and string.sub(marked, open + 1)
        if rest and not string.find(rest, '^%s*"redelivered"%s*:%s*true') then
            local comma = string.find(rest, '^%s*}') and '' or ', '
            marked = string.sub(marked, 1, open) .. '"redelivered": true' .. comma .. rest
        end
    end
    if marked == message then
        return message
    end
    local readable, decoded = pcall(cjson.decode, marked)
    local placed = readable and type(decoded) == 'table' and type(decoded.headers) == 'table'
        and decoded.headers.redelivered == true
    return placed and marked or message
end

-- Move one message from the unacknowledged to its list; command RPUSH: next to be taken, LPUSH: last.
local function give_back(tag, command)
    local record = redis.call('HGET', KEYS[1], tag)
    if record then
        -- A tag is <mark><consumer>:<number>:<list>; the record ends with exchange and routing key.
        local list = string.match(tag, '^[^:]*:[^:]*:(.*)$')
        local message = string.match(record, '^%[(.*),"","[^"]*"%]$')
        redis.call(command, list, mark(message or record))
        redis.call('HDEL', KEYS[1], tag)
    end
    redis.call('ZREM', KEYS[2], tag)
    return record and 1 or 0
end
