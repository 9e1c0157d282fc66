"""Devices that have a part of a core: their groups are frozen for the rest of every period.

    python3 part_of_core.py SHARE STATE_FILE [SHARE STATE_FILE]...

A CFS quota will not do for visits of a few milliseconds: it is enforced at the kernel's ticks (4 ms where HZ is 250), and
who stood still has a quota to spend, so that work of 10 ms after a pause takes 3 to 6 ms less than its part of long work.
A frozen group owes and saves nothing. Ends when its standard input does, so it never outlives the program that started it,
and leaves all groups thawed.
"""

import heapq
import os
import select
import sys
import time

PERIOD_S = 0.004
# Before everything that it freezes and thaws.
_PRIORITY = 50


class Group:
    def __init__(self, share, path):
        self.share, self._file, self.thawed = share, os.open(path, os.O_WRONLY), True

    def set(self, thawed):
        """False: the group is gone."""
        try:
            os.write(self._file, b"THAWED" if thawed else b"FROZEN")
        except OSError:
            return False
        self.thawed = thawed
        return True


def run(groups):
    now = time.monotonic()
    # Spread over the period, so that they do not change all at the same time.
    changes = [(now + PERIOD_S * i / len(groups), i) for i in range(len(groups))]
    heapq.heapify(changes)
    while changes:
        at, index = heapq.heappop(changes)
        ended, _, _ = select.select([sys.stdin], [], [], max(0.0, at - time.monotonic()))
        if ended:
            return
        group = groups[index]
        if not group.set(not group.thawed):
            continue
        lasts = PERIOD_S * (group.share if group.thawed else 1 - group.share)
        # Where this was late, what comes is not made shorter.
        heapq.heappush(changes, (max(at, time.monotonic() - PERIOD_S) + lasts, index))


def main():
    words = sys.argv[1:]
    groups = [Group(float(share), path) for share, path in zip(words[::2], words[1::2])]
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    print("ready", flush=True)
    try:
        run(groups)
    finally:
        for group in groups:
            group.set(True)


if __name__ == "__main__":
    main()
