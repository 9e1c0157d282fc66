"""Processes of a device: started in its namespace and groups, watched, and always ended."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import threading
import time

from .cgroup import Use

# How often bytes and faults are sampled where that is asked for: far less than a token that reads from a disk takes.
SAMPLE_S = 0.02

# Enters the groups whose files are given, then becomes the program: no code of ours runs between fork and exec, and no
# page of the program is charged to anybody else.
_ENTER = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 >"$1" || exit 125; shift; n=$((n - 1)); done; exec "$@"'


def machine_times():
    """(seconds all processors worked, seconds stolen by a hypervisor)."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, steal = (int(word) for word in file.readline().split()[1:9])
    hertz = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / hertz, steal / hertz


@dataclasses.dataclass
class Run:
    """A process that has ended."""

    command: list
    code: int  # negative: the signal that ended it
    started: float  # time.monotonic()
    seconds: float
    lines: list  # (time.monotonic(), line) of standard output
    errors: str
    use: Use
    stolen_share: float  # of all processors' time: taken by a hypervisor
    other_share: float  # of all processors' time: used by processes of no device
    capped: bool = False  # it was ended because its time was up
    samples: list = dataclasses.field(default_factory=list)  # (time.monotonic(), *Groups.sample())

    @property
    def taken_share(self):
        return self.stolen_share + self.other_share

    def text(self):
        return "\n".join(line for _, line in self.lines)

    def used_between(self, start, end):
        """(bytes read, major faults) between two times, from the samples nearest to them; None without samples."""
        if len(self.samples) < 2:
            return None
        first = min(self.samples, key=lambda sample: abs(sample[0] - start))
        last = min(self.samples, key=lambda sample: abs(sample[0] - end))
        return last[1] - first[1], last[2] - first[2]

    def most_anonymous_between(self, start, end):
        """The most anonymous bytes of all processes of the device; None without samples."""
        return max((sample[3] for sample in self.samples if start <= sample[0] <= end), default=None)


class Running:
    """A process that may still run. Made by Device.start."""

    def __init__(self, command, device, environment, sample):
        self.command, self._device = command, device
        self._before = device.use()
        self._machine_before, self._homes_before = machine_times(), device.home.cpu_s()
        self._lines, self._errors, self._samples = [], [], []
        self._changed = threading.Condition()
        self._ended = None  # (time, code, rusage)
        files = device.process_files()
        with device.namespace or contextlib.nullcontext():
            self.started = time.monotonic()
            self._popen = subprocess.Popen(["sh", "-c", _ENTER, "enter", str(len(files)), *files, *command],
                                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                           cwd=device.folder, env=environment, start_new_session=True)
        self._handle = os.pidfd_open(self._popen.pid)
        self._threads = [threading.Thread(target=self._collect, args=arguments, daemon=True)
                         for arguments in ((self._popen.stdout, self._lines), (self._popen.stderr, self._errors))]
        self._threads.append(threading.Thread(target=self._reap, daemon=True))
        if sample and device.groups is not None:
            self._threads.append(threading.Thread(target=self._sample, daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def pid(self):
        return self._popen.pid

    def _collect(self, stream, lines):
        for line in stream:
            now = time.monotonic()
            with self._changed:
                lines.append((now, line.decode(errors="replace").rstrip("\n")))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _reap(self):
        _, status, usage = os.wait4(self._popen.pid, 0)
        with self._changed:
            self._popen.returncode = os.waitstatus_to_exitcode(status)
            self._ended = (time.monotonic(), self._popen.returncode, usage)
            self._changed.notify_all()

    def _sample(self):
        while True:
            with self._changed:
                if self._ended is not None:
                    return
                self._changed.wait(SAMPLE_S)
            self._samples.append((time.monotonic(), *self._device.groups.sample()))

    def line(self, pattern, patience_s=60.0, errors=False):
        """The first line of output that matches; raises RuntimeError when none comes."""
        lines, deadline = (self._errors if errors else self._lines), time.monotonic() + patience_s
        with self._changed:
            while True:
                found = next((line for _, line in lines if re.search(pattern, line)), None)
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or self._ended is not None and not any(t.is_alive() for t in self._threads[:2]):
                    raise RuntimeError(f"{self._device.name}: no line matched {pattern!r} within {patience_s} s in:\n" +
                                       "\n".join(line for _, line in self._lines + self._errors))
                self._changed.wait(min(left, 1.0))

    def so_far(self):
        """(time, line) of what it printed until now."""
        with self._changed:
            return list(self._lines)

    def wait_for_output(self, condition, patience_s):
        """Until condition(so_far()) holds; raises RuntimeError when it ended before, or has not come to that in time."""
        deadline = time.monotonic() + patience_s
        with self._changed:
            while not condition(list(self._lines)):
                if self._ended is not None and not any(t.is_alive() for t in self._threads[:2]):
                    raise RuntimeError(f"{self._device.name}: it ended before that: " +
                                       " | ".join(line for _, line in self._errors[-3:]))
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self._device.name}: it did not come to that within {patience_s} s")
                self._changed.wait(1.0)

    def signal(self, number):
        """To the process itself, if it lives."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def wait(self, timeout_s=None):
        """The end, by itself or when its time is up."""
        with self._changed:
            capped = not self._changed.wait_for(lambda: self._ended is not None, timeout_s)
        if capped:
            self.end()
        for thread in self._threads:
            thread.join(20)  # a grandchild may hold the pipes open; it is ended with the home
        ended, code, usage = self._ended
        use = self._device.use()
        use = use.since(self._before) if use is not None else _use_of(usage)
        busy, stolen = (after - before for after, before in zip(machine_times(), self._machine_before))
        ours = self._device.home.cpu_s()
        others = max(0.0, busy - (ours - self._homes_before)) if ours is not None else 0.0
        all_time = max(1e-9, (time.monotonic() - self.started) * os.cpu_count())
        return Run(command=self.command, code=code, started=self.started, seconds=ended - self.started,
                   lines=list(self._lines), errors="\n".join(line for _, line in self._errors), use=use,
                   stolen_share=stolen / all_time, other_share=others / all_time, capped=capped,
                   samples=list(self._samples))

    def end(self):
        """Kills it and what it started. Returns when it is gone."""
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self.signal(signal.SIGKILL)
        with self._changed:
            self._changed.wait_for(lambda: self._ended is not None)

    def close(self):
        self.end()
        for thread in self._threads:
            thread.join(20)
        for stream, thread in zip((self._popen.stdout, self._popen.stderr), self._threads):
            if not thread.is_alive():  # it would wait for a grandchild that holds the pipe
                stream.close()
        os.close(self._handle)


def _use_of(usage):
    """What the kernel counts without groups."""
    return Use(read_bytes=usage.ru_inblock * 512, written_bytes=usage.ru_oublock * 512,
               peak_memory_bytes=usage.ru_maxrss * 1024, major_faults=usage.ru_majflt,
               cpu_s=usage.ru_utime + usage.ru_stime)
