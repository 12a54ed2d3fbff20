#!lua flags=allow-oom
-- Keep a member's leases, take what is free up to its fair share, and say what is too much. A server
-- that is full lets it: consumers must go on, or nothing could ever be trimmed.
--
-- KEYS[1]   hash, expires after four leases: member -> "<end of lease, ms> <topic>=<partitions>,..."
-- KEYS[2]   hash, expires after four leases: "<topic>:<partition>" -> "<end of lease, ms> <member>"
-- KEYS[3]   hash, no expiry: "<topic>:<partition>" -> id of the first entry not applied
-- KEYS[4]   stream of one entry, expires after an hour: wakes the group's members
-- KEYS[5..] sets, no expiry: the groups of each of the member's topics
-- ARGV      member, group, lease in ms, the member's topics as in KEYS[1]
-- Returns   what it holds: field and offset ('' for none), alternating; and the fields it shall give up
local me, lease_ms, topics_of_mine = ARGV[1], tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local until_ms = string.format('%.0f', now + lease_ms)
local changed = false

for i = 5, #KEYS do
    redis.call('SADD', KEYS[i], ARGV[2])
end

-- Who lives, and what each of them reads.
local living, members = {[me] = topics_of_mine}, {me}
local known = redis.call('HGETALL', KEYS[1])
local i_am_new = true
for i = 1, #known, 2 do
    local member = known[i]
    local ends, topics = string.match(known[i + 1], '^(%d+) (.*)$')
    if member == me then
        i_am_new = false
    elseif tonumber(ends) < now then
        redis.call('HDEL', KEYS[1], member)
        changed = true
    else
        living[member] = topics
        members[#members + 1] = member
    end
end
changed = changed or i_am_new
redis.call('HSET', KEYS[1], me, until_ms .. ' ' .. topics_of_mine)
redis.call('PEXPIRE', KEYS[1], 4 * lease_ms)

-- How many partitions of each topic are mine. Every member comes to the same result: topic by topic,
-- what does not divide evenly goes to those who have least so far.
local sizes, readers, names = {}, {}, {}
table.sort(members)
for _, member in ipairs(members) do
    for topic, n in string.gmatch(living[member], '([^,=]+)=(%d+)') do
        if not sizes[topic] then
            sizes[topic], readers[topic] = 0, {}
            names[#names + 1] = topic
        end
        sizes[topic] = math.max(sizes[topic], tonumber(n))
        table.insert(readers[topic], member)
    end
end
table.sort(names)
local totals, mine = {}, {}
for _, topic in ipairs(names) do
    local order = readers[topic]
    table.sort(order, function(a, b)
        local of_a, of_b = totals[a] or 0, totals[b] or 0
        return of_a < of_b or (of_a == of_b and a < b)
    end)
    local each, rest = math.floor(sizes[topic] / #order), sizes[topic] % #order
    for place, member in ipairs(order) do
        local n = each + (place <= rest and 1 or 0)
        totals[member] = (totals[member] or 0) + n
        if member == me then
            mine[topic] = n
        end
    end
end

local leases = {}
local held_now = redis.call('HGETALL', KEYS[2])
for i = 1, #held_now, 2 do
    leases[held_now[i]] = held_now[i + 1]
end
local holds, gives_up = {}, {}
for topic, n in string.gmatch(topics_of_mine, '([^,=]+)=(%d+)') do
    local held, free = {}, {}
    for number = 0, tonumber(n) - 1 do
        local field = topic .. ':' .. string.format('%d', number)
        local ends, owner = string.match(leases[field] or '', '^(%d+) (.*)$')
        if owner == me then
            held[#held + 1] = field
        elseif not owner or tonumber(ends) < now or not living[owner] then
            free[#free + 1] = field
        end
    end
    for place = mine[topic] + 1, #held do
        gives_up[#gives_up + 1] = held[place]
    end
    while #held < mine[topic] and #free > 0 do
        held[#held + 1] = table.remove(free, 1)
        changed = true
    end
    for _, field in ipairs(held) do
        redis.call('HSET', KEYS[2], field, until_ms .. ' ' .. me)
        holds[#holds + 1] = field
        holds[#holds + 1] = redis.call('HGET', KEYS[3], field) or ''
    end
end
if #holds > 0 then
    redis.call('PEXPIRE', KEYS[2], 4 * lease_ms)
end
if changed then
    redis.call('XADD', KEYS[4], 'MAXLEN', '1', '*', 'member', me)
    redis.call('PEXPIRE', KEYS[4], 3600000)
end
return {holds, gives_up}
