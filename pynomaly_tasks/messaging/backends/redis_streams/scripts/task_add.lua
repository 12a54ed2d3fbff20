-- Keep a task, and put its bell unless it waits for parents.
--
-- KEYS[1]  namespace; the keys are in channel.lua and tasks.lua
-- ARGV     id, type, channel, bell, body, fingerprint, key or '', priority, run at in ms or '', delay in ms,
--          every in ms or '', number of runs or '', ms to keep it, workers that may die with it, most
--          children of a parent, parents as JSON, then each parent
-- Returns  added, exists, no_queue, no_parent, parent_repeats or parent_full; the task's or parent's id; the
--          fingerprint of the task that exists
local id, channel, key = ARGV[1], ARGV[3], ARGV[7]
if redis.call('HEXISTS', ns .. ':catalog', 'queue/' .. channel) == 0 then
    return {'no_queue', id, ''}
end
if key ~= '' then
    local known = redis.call('GET', ns .. ':task_keys:' .. key)
    if known then
        return {'exists', known, redis.call('HGET', task_key(known), 'fingerprint') or ''}
    end
end
local waits_for, failed = {}, nil
for at = 17, #ARGV do
    local parent = ARGV[at]
    local found = redis.call('HMGET', task_key(parent), 'state', 'every')
    if not found[1] then
        return {'no_parent', parent, ''}
    elseif found[1] == 'pending' or found[1] == 'running' then
        if found[2] ~= '' then
            return {'parent_repeats', parent, ''}
        elseif redis.call('SCARD', task_key(parent) .. ':children') >= tonumber(ARGV[15]) then
            return {'parent_full', parent, ''}
        end
        waits_for[#waits_for + 1] = parent
    elseif found[1] ~= 'succeeded' and not failed then
        failed = {parent, found[1]}
    end
end

local due = ARGV[9] ~= '' and tonumber(ARGV[9]) or now + tonumber(ARGV[10])
due = math.max(due, now)
redis.call(
    'HSET', task_key(id), 'id', id, 'type', ARGV[2], 'channel', channel, 'bell', ARGV[4], 'body', ARGV[5],
    'fingerprint', ARGV[6], 'key', key, 'priority', ARGV[8], 'due', due, 'slot', due, 'every', ARGV[11],
    'runs_left', ARGV[12], 'keep', ARGV[13], 'max_lost', ARGV[14], 'after', ARGV[16], 'parents', #waits_for,
    'state', 'pending', 'created', now, 'attempt', 0
)
if key ~= '' then
    redis.call('SET', ns .. ':task_keys:' .. key, id)
end
redis.call('ZADD', ns .. ':tasks', now, id)
forget_old()
if failed then
    redis.call('HSET', task_key(id), 'failed_parent', failed[1], 'failed_parent_state', failed[2])
    end_task(id, 'parent_failed', '')
elseif #waits_for == 0 then
    ring(id)
else
    for _, parent in ipairs(waits_for) do
        redis.call('SADD', task_key(parent) .. ':children', id)
    end
end
return {'added', id, ''}
