-- End held entries, and put what follows from each in the same step. One that another consumer holds, or
-- that was settled, is left alone with what would have followed.
--
-- KEYS[1]  namespace; the keys are in channel.lua
-- ARGV     consumer, then for each entry: channel, key, count of deliveries, outcome, microseconds handled,
--          note's key or '', its member, ms to keep it, number of entries that follow, then for each of
--          those: channel, message id, body, priority, delay in ms, ttl in ms or ''
-- Returns  1 for each entry that was ours, 0 for the others
local consumer, answers, at = ARGV[1], {}, 2
while at <= #ARGV do
    local base, key, count, outcome = base_of(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local n_then = tonumber(ARGV[at + 8])
    local stream, id = held(base, key, consumer, count)
    if stream then
        drop(base, stream, id, key)
        redis.call('HINCRBY', base, outcome, 1)
        if outcome == 'acknowledged' then
            redis.call('HINCRBY', base, 'handled_us', ARGV[at + 4])
        end
        if ARGV[at + 5] ~= '' then
            local notes = ns .. ':notes:' .. ARGV[at + 5]
            redis.call('SADD', notes, ARGV[at + 6])
            redis.call('PEXPIRE', notes, ARGV[at + 7])
        end
        for follow = at + 9, at + 9 + 6 * (n_then - 1), 6 do
            put(unpack(ARGV, follow, follow + 5))
        end
    end
    answers[#answers + 1] = stream and 1 or 0
    at = at + 9 + 6 * n_then
end
return answers
