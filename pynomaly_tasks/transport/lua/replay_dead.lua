-- Take one letter out of a queue's dead letters and put a message back into the queue, to be taken last.
-- Done twice it is done once: whoever takes the letter out puts the message back.
--
-- KEYS[1]  list, no expiry: dead letters of the queue
-- KEYS[2]  list, expires as declared: the queue's first list
-- KEYS[3]  list, expires by ARGV[4]: wake tokens of the queue
-- ARGV     letter, message, most tokens, s
-- Returns  1 when it was put back, 0 when the letter was not there
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then
    return 0
end
redis.call('LPUSH', KEYS[2], ARGV[2])
if redis.call('LLEN', KEYS[3]) < tonumber(ARGV[3]) then
    redis.call('LPUSH', KEYS[3], '')
end
redis.call('EXPIRE', KEYS[3], ARGV[4])
return 1
