"""Real hearth processes for tests: workers and heads with keys of their own, on loopback, always cleaned up."""

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
    """The lines that a process writes to one stream, collected by a thread."""

    def __init__(self, stream):
        self._lines = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            with self._changed:
                self._lines.append((time.monotonic(), line.decode(errors="replace").rstrip("\n")))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern, after=0.0, patience=PATIENCE):
        """The first line since `after` that matches; fails the test when none comes."""
        deadline = time.monotonic() + patience
        with self._changed:
            while True:
                for at, line in self._lines:
                    if at >= after and re.search(pattern, line):
                        return at, line
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"no line matched {pattern!r} in:\n{self.text()}")
                self._changed.wait(left)

    def text(self):
        with self._changed:
            return "\n".join(line for _, line in self._lines)

    def join(self):
        self._thread.join(PATIENCE)


class Process:
    def __init__(self, *arguments, stdin=subprocess.DEVNULL):
        self.popen = subprocess.Popen([HEARTH, *arguments], stdin=stdin, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, start_new_session=True)
        self.out = Output(self.popen.stdout)
        self.err = Output(self.popen.stderr)

    @property
    def pid(self):
        return self.popen.pid

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, patience=PATIENCE):
        """Exit code; the output is complete afterwards."""
        code = self.popen.wait(patience)
        self.out.join()
        self.err.join()
        return code

    def end(self):
        if self.popen.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.popen.wait(PATIENCE)
        for stream in (self.popen.stdout, self.popen.stderr):
            stream.close()


class Ring:
    """Workers that wait for one head; `with Ring(3) as ring: ring.run("-p", "Who are you?")`."""

    def __init__(self, n_workers, model=MODEL):
        self._folder = tempfile.TemporaryDirectory(prefix="hearth-test-")
        self._processes = []
        self.model = model
        self.head_key = self.path("head.key")
        self.head_public = self.keygen(self.head_key)
        self.workers = [self.worker(f"w{i + 1}") for i in range(n_workers)]
        self.addresses = [w.out.wait_for("@")[1] for w in self.workers]

    def __enter__(self):
        return self

    def __exit__(self, *_):
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

    def worker(self, name, model=None, allow=None):
        key = self.path(f"{name}.key")
        if not os.path.exists(key):
            self.keygen(key)
        return self.start("worker", "-m", model or self.model, "--key", key, "--allow", allow or self.head_public,
                          "--name", name, "-t", "1", "-v")

    def run(self, *arguments, addresses=None, key=None, model=None):
        """Starts a head over all workers, greedy, one thread."""
        workers = []
        for address in addresses if addresses is not None else self.addresses:
            workers += ["--worker", address]
        return self.start("run", "-m", model or self.model, "--key", key or self.head_key, "-t", "1", "--temp", "0",
                          "-c", "1024", "-v", *workers, *arguments)


def alone(*arguments, model=MODEL):
    """What one device says: exit code, text, messages."""
    done = subprocess.run([HEARTH, "run", "-m", model, "-t", "1", "--temp", "0", "-c", "1024", *arguments],
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    return done.returncode, done.stdout.decode(errors="replace").rstrip("\n"), done.stderr.decode(errors="replace")
