-- Begin an attempt. One that still ran was lost with its worker.
--
-- KEYS[1]  namespace; the keys are in channel.lua and tasks.lua
-- ARGV     id, worker
-- Returns  started, later, ended or unknown; ms until it is due; now; then the record's fields and values
local id, key = ARGV[1], task_key(ARGV[1])
local found = redis.call('HMGET', key, 'state', 'due', 'max_lost')
local state = found[1]
if not state then
    return {'unknown', 0, now}
elseif state == 'pending' then
    if tonumber(found[2]) > now then
        return {'later', tonumber(found[2]) - now, now}
    end
elseif state ~= 'running' then
    return {'ended', 0, now}
elseif redis.call('HINCRBY', key, 'n_lost', 1) >= tonumber(found[3]) then
    local ended = end_run(id, 'failed', '')
    redis.call('HSET', key, 'worker_died', 1)
    return {ended[1] == 'again' and 'later' or 'ended', ended[2], now}
end
redis.call('HINCRBY', key, 'attempt', 1)
redis.call('HSET', key, 'state', 'running', 'started', now, 'worker', ARGV[2])
redis.call('HDEL', key, 'progress', 'worker_died')
return {'started', 0, now, unpack(redis.call('HGETALL', key))}
