-- What every step of a task starts with, behind channel.lua.
--
--   <ns>:task:<id>           hash, expires `keep` ms after the task's end: its record, see TaskRecord; state is
--                            pending, running or how it ended; due, slot, created, started, ended in ms
--   <ns>:task:<id>:children  set, removed with the task's end: tasks that wait for it
--   <ns>:task_keys:<key>     string, expires with the task: the task of a deduplication key
--   <ns>:tasks               sorted set, no expiry: tasks by when they were added, until they are forgotten
--   <ns>:tasks_ended         sorted set, no expiry: tasks that ended, by when they are forgotten
local function task_key(id)
    return ns .. ':task:' .. id
end

local function forget_old()
    local ended = ns .. ':tasks_ended'
    for _, id in ipairs(redis.call('ZRANGE', ended, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
        redis.call('ZREM', ended, id)
        redis.call('ZREM', ns .. ':tasks', id)
    end
end

-- Let a worker have it when it is due.
local function ring(id)
    local found = redis.call('HMGET', task_key(id), 'channel', 'bell', 'priority', 'due')
    put(found[1], id, found[2], found[3], math.max(0, tonumber(found[4]) - now), '')
end

-- End a task, and tell its children: they are one step nearer, or will never run, nor will theirs.
local function end_task(id, state, report)
    redis.call('HSET', task_key(id), 'outcome', report)
    local stack = {{id, state, '', ''}}
    while #stack > 0 do
        local this, how, parent, parent_how = unpack(table.remove(stack))
        local key = task_key(this)
        local children = redis.call('SMEMBERS', key .. ':children')
        local kept = redis.call('HMGET', key, 'state', 'keep', 'key')
        -- A child of two parents that end together is here twice.
        if parent == '' or kept[1] == 'pending' then
            redis.call('DEL', key .. ':children')
            redis.call('HSET', key, 'state', how, 'ended', now, 'parents', 0)
            if parent ~= '' then
                redis.call('HSET', key, 'failed_parent', parent, 'failed_parent_state', parent_how)
            end
            redis.call('PEXPIRE', key, kept[2])
            if kept[3] ~= '' then
                redis.call('PEXPIRE', ns .. ':task_keys:' .. kept[3], kept[2])
            end
            redis.call('ZADD', ns .. ':tasks_ended', now + kept[2], this)
            for _, child in ipairs(children) do
                if redis.call('HGET', task_key(child), 'state') == 'pending' then
                    if how ~= 'succeeded' then
                        stack[#stack + 1] = {child, 'parent_failed', this, how}
                    elseif redis.call('HINCRBY', task_key(child), 'parents', -1) == 0 then
                        ring(child)
                    end
                end
            end
        end
    end
end

-- End a run: of a task that repeats the next one follows, in its slot, whatever became of this one.
-- Slots that passed meanwhile are left out. Returns 'again' and the ms until then, or 'ended'.
local function end_run(id, state, report)
    local key = task_key(id)
    local found = redis.call('HMGET', key, 'every', 'runs_left', 'slot')
    local n_left = tonumber(found[2])
    if found[1] == '' or n_left == 1 then
        if found[1] ~= '' then
            redis.call('HINCRBY', key, 'n_runs', 1)
        end
        end_task(id, state, report)
        return {'ended', 0}
    end
    local every, slot = tonumber(found[1]), tonumber(found[3])
    slot = slot + every * (math.max(0, math.floor((now - slot) / every)) + 1)
    redis.call('HINCRBY', key, 'n_runs', 1)
    if n_left then
        redis.call('HINCRBY', key, 'runs_left', -1)
    end
    redis.call(
        'HSET', key, 'state', 'pending', 'slot', slot, 'due', slot, 'n_failed', 0, 'n_lost', 0, 'outcome', report
    )
    return {'again', slot - now}
end
