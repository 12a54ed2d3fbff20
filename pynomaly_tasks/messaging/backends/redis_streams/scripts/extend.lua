-- Let leases end later; one that has ended is not brought back.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     consumer, lease in ms, then for each entry: channel, key, count of deliveries
-- Returns  1 for each entry that is ours, 0 for the others
local answers = {}
for at = 3, #ARGV, 3 do
    local base, key = base_of(ARGV[at]), ARGV[at + 1]
    local leases = base .. ':leases'
    local ends = redis.call('ZSCORE', leases, key)
    local ours = ends and tonumber(ends) > now and held(base, key, ARGV[1], ARGV[at + 2])
    if ours then
        redis.call('ZADD', leases, now + ARGV[2], key)
    end
    answers[#answers + 1] = ours and 1 or 0
end
return answers
