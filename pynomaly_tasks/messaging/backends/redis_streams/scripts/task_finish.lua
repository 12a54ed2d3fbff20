-- End an attempt.
--
-- KEYS[1]  namespace; the keys are in channel.lua and tasks.lua
-- ARGV     id, attempt, succeeded, failed or retry, its report, ms before a retry, progress or ''
-- Returns  ended, again or lost; ms until it is run again
local id, key = ARGV[1], task_key(ARGV[1])
local found = redis.call('HMGET', key, 'state', 'attempt')
if found[1] ~= 'running' or found[2] ~= ARGV[2] then
    return {'lost', 0}
end
if ARGV[6] ~= '' then
    redis.call('HSET', key, 'progress', ARGV[6])
end
if ARGV[3] ~= 'retry' then
    return end_run(id, ARGV[3], ARGV[4])
end
redis.call('HINCRBY', key, 'n_failed', 1)
redis.call('HSET', key, 'state', 'pending', 'due', now + ARGV[5], 'outcome', ARGV[4])
return {'again', tonumber(ARGV[5])}
