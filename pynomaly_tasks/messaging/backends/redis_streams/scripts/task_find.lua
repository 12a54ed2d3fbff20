-- Read records.
--
-- KEYS[1]  namespace; the keys are in channel.lua and tasks.lua
-- ARGV     ids
-- Returns  now, then for each its fields and values, none where there is no such task
local answers = {now}
for _, id in ipairs(ARGV) do
    answers[#answers + 1] = redis.call('HGETALL', task_key(id))
end
return answers
