"""A slow cable: moves Ethernet frames between two taps, each later than it came, some of them never.

    relay.py TAP TAP DELAY_MS JITTER_MS LOSS_PERCENT

For kernels without netem. Rates are the taps' own queues' business. Ends when its standard input does, so it never
outlives the program that started it. Frames keep their order: a frame with less jitter waits for the one before it.
"""

import collections
import errno
import os
import random
import select
import sys
import time

# Longest Ethernet frame of a tap with the usual MTU, and room.
_FRAME = 4096

# Frames on their way in one direction; more are lost, as in a full queue.
_MOST = 20_000


class Direction:
    def __init__(self, source, target, delay_s, jitter_s, loss, seed):
        self.source, self.target = source, target
        self._delay_s, self._jitter_s, self._loss = delay_s, jitter_s, loss
        self._random = random.Random(seed)
        self._frames = collections.deque()  # (time to leave, frame)
        self._last = 0.0

    def take(self):
        """Everything that has arrived."""
        while True:
            try:
                frame = os.read(self.source, _FRAME)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EIO:  # the device is down
                    return
                raise
            if self._random.random() < self._loss or len(self._frames) >= _MOST:
                continue
            leaves = time.monotonic() + self._delay_s + self._jitter_s * self._random.random()
            self._last = max(self._last, leaves)
            self._frames.append((self._last, frame))

    def give(self):
        """Everything that is due."""
        while self._frames and self._frames[0][0] <= time.monotonic():
            try:
                os.write(self.target, self._frames.popleft()[1])
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EAGAIN, errno.ENOBUFS):  # down or full: the frame is lost
                    raise

    def seconds_to_next(self):
        return max(0.0, self._frames[0][0] - time.monotonic()) if self._frames else None


def main():
    near, far = int(sys.argv[1]), int(sys.argv[2])
    delay_s, jitter_s, loss = float(sys.argv[3]) / 1e3, float(sys.argv[4]) / 1e3, float(sys.argv[5]) / 100
    directions = [Direction(near, far, delay_s, jitter_s, loss, 1), Direction(far, near, delay_s, jitter_s, loss, 2)]
    while True:
        waits = [wait for wait in (direction.seconds_to_next() for direction in directions) if wait is not None]
        readable, _, _ = select.select([near, far, 0], [], [], min(waits, default=None))
        if 0 in readable and not os.read(0, 1):
            return
        for direction in directions:
            if direction.source in readable:
                direction.take()
            direction.give()


if __name__ == "__main__":
    main()
