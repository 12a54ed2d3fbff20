-- Give back messages that this consumer took and does not work on. Done twice it is done once.
--
-- KEYS[1]  hash, no expiry: unacknowledged
-- KEYS[2]  sorted set, no expiry: its index
-- ARGV     RPUSH to be taken next or LPUSH to be taken last, then tags
-- Returns  how many went back
local n_returned = 0
for i = 2, #ARGV do
    n_returned = n_returned + give_back(ARGV[i], ARGV[1])
end
return n_returned
