"""The log of events on Redis Streams: one stream a partition, leases for the members of a group.

Keys (in the streams' database) that do not expire, since they are the log itself: the streams
``events:<topic>:<partition>``, which are trimmed; ``events:counts``; and for each group
``events:groups:<topic>`` and ``events:group:<group>:offsets``, until the group is forgotten.
"""
