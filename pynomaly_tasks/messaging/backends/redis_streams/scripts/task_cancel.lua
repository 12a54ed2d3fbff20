-- End a task that has not ended. Its bell, should it lie in a queue, finds it ended.
--
-- KEYS[1]  namespace; the keys are in channel.lua and tasks.lua
-- ARGV     id, its report
-- Returns  1 when it was ended, 0 when it had ended, -1 where there is none
local state = redis.call('HGET', task_key(ARGV[1]), 'state')
if not state then
    return -1
elseif state ~= 'pending' and state ~= 'running' then
    return 0
end
end_task(ARGV[1], 'cancelled', ARGV[2])
return 1
