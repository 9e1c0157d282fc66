"""Real hearth processes for tests: workers and heads with keys of their own, on loopback, always cleaned up."""

import contextlib
import functools
import math
import os
import re
import signal
import subprocess
import tempfile
import threading
import time

HEARTH = os.environ["HEARTH_PROGRAM"]
MODELS = os.environ["HEARTH_MODELS"]
MODEL = os.path.join(MODELS, "ember-q8_0.gguf")
OTHER_MODEL = os.path.join(MODELS, "ember-q4_k_m.gguf")

# How long anything may take before a test gives up; bounds, not expectations.
PATIENCE = 60.0


class Output:
    """What a process writes to one stream, collected by a thread that notes when each line was complete."""

    def __init__(self, stream):
        self._stream = stream
        self._lines = []
        self._rest = b""
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            piece = os.read(self._stream.fileno(), 1 << 16)
            now = time.monotonic()
            with self._changed:
                *lines, self._rest = (self._rest + piece).split(b"\n")
                self._lines += [(now, line.decode(errors="replace")) for line in lines]
                self._ended = not piece
                self._changed.notify_all()
                if self._ended:
                    return

    def _wait(self, look, what, patience):
        deadline = time.monotonic() + patience
        with self._changed:
            while True:
                if (found := look()) is not None:
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"{what} in:\n{self.text()}")
                self._changed.wait(left)

    def wait_for(self, pattern, after=0.0, patience=PATIENCE):
        """Time and text of the first line since `after` that matches; fails the test when none comes."""
        return self._wait(lambda: next((line for line in self.since(after) if re.search(pattern, line[1])), None),
                          f"no line matched {pattern!r}", patience)

    def wait_for_text(self, pattern, patience=PATIENCE):
        """Waits for a match anywhere in what was written, also in a line that is not complete."""
        self._wait(lambda: re.search(pattern, self.text(), re.DOTALL), f"nothing matched {pattern!r}", patience)

    def since(self, after):
        """(time, text) of the complete lines since then."""
        with self._changed:
            return [line for line in self._lines if line[0] >= after]

    def text(self):
        with self._changed:
            return "\n".join([line for _, line in self._lines] + [self._rest.decode(errors="replace")]).removesuffix("\n")

    def join(self):
        self._thread.join(PATIENCE)

    def close(self):
        self.join()
        self._stream.close()


class Process:
    """`inside`: a network namespace to live in. `stdout`: a descriptor that somebody else reads."""

    def __init__(self, *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, inside=None, environment=None):
        with inside or contextlib.nullcontext():
            self.popen = subprocess.Popen([HEARTH, *arguments], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE,
                                          start_new_session=True, env={**os.environ, **(environment or {})})
        self.out = Output(self.popen.stdout) if self.popen.stdout else None
        self.err = Output(self.popen.stderr)

    @property
    def pid(self):
        return self.popen.pid

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, patience=PATIENCE):
        """Exit code; the output is complete afterwards."""
        code = self.popen.wait(patience)
        for output in filter(None, (self.out, self.err)):
            output.join()
        return code

    def end(self):
        if self.popen.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.popen.wait(PATIENCE)
        for output in filter(None, (self.out, self.err)):
            output.close()


class Ring:
    """Workers that wait for one head; `with Ring(3) as ring: ring.run("-p", "Who are you?")`."""

    def __init__(self, n_workers, model=MODEL):
        self._folder = tempfile.TemporaryDirectory(prefix="hearth-test-")
        self._processes = []
        self.model = model
        self.head_key = self.path("head.key")
        self.head_public = self.keygen(self.head_key)
        self.workers = []
        self.addresses = []
        try:
            for i in range(n_workers):
                self.add_worker(f"w{i + 1}")
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        for process in self._processes:
            process.end()
        self._folder.cleanup()

    def path(self, name):
        return os.path.join(self._folder.name, name)

    @staticmethod
    def keygen(path):
        return subprocess.run([HEARTH, "keygen", path], check=True, capture_output=True, text=True,
                              timeout=PATIENCE).stdout.strip()

    def start(self, *arguments, **options):
        process = Process(*arguments, **options)
        self._processes.append(process)
        return process

    def add_worker(self, name, listen="127.0.0.1", allow=(), **options):
        """Starts a worker and waits until it can be reached. `allow`: public keys of more heads."""
        key = self.path(f"{name}.key")
        self.keygen(key)
        allowed = [item for head in (self.head_public, *allow) for item in ("--allow", head)]
        worker = self.start("worker", "-m", self.model, "--key", key, *allowed, "--name", name, "--listen", listen, "-t", "1",
                            "-v", **options)
        self.workers.append(worker)
        self.addresses.append(worker.out.wait_for("@")[1])
        return worker

    def head(self, verb, *arguments, **options):
        """Starts a verb that leads all workers, one thread."""
        workers = [word for address in self.addresses for word in ("--worker", address)]
        return self.start(verb, "-m", self.model, "--key", self.head_key, "-t", "1", *workers, *arguments, **options)

    def run(self, *arguments, addresses=None, key=None, model=None, **options):
        """Starts a head over all workers, greedy, one thread. Without a split in the arguments every device gets as many
        of the model's eight layers: the plan would keep such a small model on the head."""
        if addresses is None:
            addresses = self.addresses
        workers = [word for address in addresses for word in ("--worker", address)]
        if addresses and not {"-lw", "--layer-window"} & set(arguments):
            workers += ["-lw", ",".join([str(math.ceil(8 / (len(addresses) + 1)))] * (len(addresses) + 1))]
        return self.start("run", "-m", model or self.model, "--key", key or self.head_key, "-t", "1", "--temp", "0",
                          "-c", "1024", "-v", *workers, *arguments, **options)


@functools.cache
def alone(*arguments, model=MODEL):
    """What one device says: exit code, text, messages."""
    done = subprocess.run([HEARTH, "run", "-m", model, "-t", "1", "--temp", "0", "-c", "1024", *arguments],
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    return done.returncode, done.stdout.decode(errors="replace").rstrip("\n"), done.stderr.decode(errors="replace")
