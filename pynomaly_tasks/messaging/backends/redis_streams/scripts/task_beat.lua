-- Keep the progress of running attempts.
--
-- KEYS[1]  namespace; the keys are in channel.lua and tasks.lua
-- ARGV     for each: id, attempt, progress or ''
-- Returns  1 for each attempt that is the task's, 0 for the others
local answers = {}
for at = 1, #ARGV, 3 do
    local key = task_key(ARGV[at])
    local found = redis.call('HMGET', key, 'state', 'attempt')
    local is_ours = found[1] == 'running' and found[2] == ARGV[at + 1]
    if is_ours and ARGV[at + 2] ~= '' then
        redis.call('HSET', key, 'progress', ARGV[at + 2])
    end
    answers[#answers + 1] = is_ours and 1 or 0
end
return answers
