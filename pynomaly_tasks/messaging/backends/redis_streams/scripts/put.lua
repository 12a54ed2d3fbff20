-- Put entries into their channels, each unless its key is within its window or its channel is full; all
-- in one step. A refused entry notes no key.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     catalog version, then for each entry: channel, message id, body, priority, delay in ms, ttl in
--          ms or '', deduplication key or '', its window in ms, max size or ''
-- Returns  a word for each entry; the error STALE where the catalog is newer
if not check_catalog(ARGV[1]) then
    return redis.error_reply('STALE')
end

-- A later channel of the same name knows nothing of what was sent to this one.
local function epoch_of(base)
    local epoch = redis.call('HGET', base, 'epoch')
    if not epoch then
        epoch = redis.call('INCR', ns .. ':order')
        redis.call('HSET', base, 'epoch', epoch)
    end
    return epoch
end

local answers = {}
for at = 2, #ARGV, 9 do
    local channel, key, window, max_size = ARGV[at], ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
    local base = base_of(channel)
    local mark = key ~= '' and base .. ':dup:' .. epoch_of(base) .. ':' .. key
    if mark and redis.call('EXISTS', mark) == 1 then
        answers[#answers + 1] = 'duplicate'
    elseif max_size ~= '' and tonumber(redis.call('HGET', base, 'depth') or 0) >= tonumber(max_size) then
        answers[#answers + 1] = 'full'
    else
        if mark then
            redis.call('SET', mark, 1, 'PX', window)
        end
        put(channel, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5])
        answers[#answers + 1] = 'done'
    end
end
return answers
