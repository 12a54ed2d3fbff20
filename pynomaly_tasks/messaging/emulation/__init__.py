"""What brokers lack, done once for all of them: `EmulatedBackend` makes a `Backend` of a `PlainBroker`.

| what | how, and how far it can be relied on |
|---|---|
| expiry | looked at when an item is taken, by this process's clock |
| delay | delay lanes, or the broker's own delay up to its limit and then again; see `delays` |
| priority | a lane for each priority in use, the best first; another process sees a new one within a second |
| deduplication | what this process sent within the window, the newest 100,000; not what others sent |
| max_size | counted before it is put: several senders at once may overshoot by what they put at once |
| settlement | what follows is appended and confirmed before the acknowledgement: a crash between makes a copy |
| giving back | appended in front of what was never held, its count of deliveries right; see `lanes` |
| counts | depth, in flight, delayed and age by the broker; all others are this process's own |
| catalog | read again at most every second: a queue that another process made or deleted a second ago may not be known |
"""

from pynomaly_tasks.messaging.emulation.backend import EmulatedBackend

__all__ = ["EmulatedBackend"]
