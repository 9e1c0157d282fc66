"""Programs that a machine is busy with, as processes of their own: run by name, they print a line for each 20 ms."""

import os
import subprocess
import sys
import tempfile
import time

FRAME_S = 1 / 60
_WORK_S = 0.005
_REPORT_S = 0.02


def hog():
    """Never rests: loops done so far."""
    done, report = 0, time.monotonic()
    while True:
        for _ in range(2000):
            pass
        done += 1
        now = time.monotonic()
        if now >= report:
            print(now, done, flush=True)
            report = now + _REPORT_S


def _loops_of(seconds):
    loops, until = 0, time.thread_time() + seconds
    while time.thread_time() < until:
        for _ in range(200):
            pass
        loops += 1
    return loops


def video():
    """Works 5 ms of each frame: when each was due, and how many seconds after that it was done."""
    loops = _loops_of(_WORK_S)
    due = time.monotonic()
    while True:
        due += FRAME_S
        time.sleep(max(0.0, due - time.monotonic()))
        for _ in range(loops):
            for _ in range(200):
                pass
            time.thread_time()
        now = time.monotonic()
        print(due, now - due, flush=True)
        while due < now - FRAME_S:  # a frame that was missed is not shown later
            due += FRAME_S


class Load:
    """Processes of one of the above; their samples lie between two times of time.monotonic()."""

    def __init__(self, name, count):
        # A pipe that nobody reads would stop them.
        self._files = [tempfile.TemporaryFile("w+") for _ in range(count)]
        self._processes = [subprocess.Popen([sys.executable, "-B", "-m", "busy.loads", name], stdout=file, text=True)
                           for file in self._files]
        for file, process in zip(self._files, self._processes):
            while os.fstat(file.fileno()).st_size == 0 and process.poll() is None:
                time.sleep(_REPORT_S)

    def end(self):
        """All samples, by process."""
        samples = []
        for file, process in zip(self._files, self._processes):
            process.terminate()
            process.wait(timeout=30)
            file.seek(0)
            samples.append([tuple(map(float, line.split())) for line in file if len(line.split()) == 2 and line[-1] == "\n"])
            file.close()
        return samples


def rate(samples, begin, end):
    """Loops a second of all hogs together, from the last sample before to the first one after."""
    total = 0.0
    for of_one in samples:
        before = [sample for sample in of_one if sample[0] <= begin]
        after = [sample for sample in of_one if sample[0] >= end]
        if not before or not after:
            raise RuntimeError("a restless program ended too early or began too late")
        (first, done_first), (last, done_last) = before[-1], after[0]
        total += (done_last - done_first) / (last - first)
    return total


def late(samples, begin, end):
    """The share of frames that were not done when the next one was due."""
    frames = [took for of_one in samples for due, took in of_one if begin <= due <= end]
    due = (end - begin) / FRAME_S * len(samples)
    in_time = sum(took <= FRAME_S for took in frames)
    return max(0.0, 1 - in_time / due)


if __name__ == "__main__":
    {"hog": hog, "video": video}[sys.argv[1]]()
