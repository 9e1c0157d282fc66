"""A ring of hearth on the devices of a home: a worker on each but the head, and the head's bench."""

import json
import math
import os
import signal

# How long an interrupted worker may take to free its weights.
_PATIENCE_S = 20


def threads_of(device):
    cores = device.spec.cores
    return os.cpu_count() if cores is None else max(1, math.ceil(cores))


def _device_flags(device, model, tell_memory):
    flags = ["-m", device.file(model), "-t", str(threads_of(device))]
    if tell_memory and device.memory_limit is not None:
        flags += ["--memory", f"{device.memory_limit}B"]
    return flags


class HearthRing:
    """`with HearthRing(home, program, model) as ring: ring.bench(...)`. `model` has been placed on every device.

    tell_memory: give each process its device's limit as --memory; otherwise it has to find it by itself.
    """

    def __init__(self, home, program, model, tell_memory=True):
        self._home, self._program, self._model, self._tell_memory = home, program, model, tell_memory
        self._flags = []
        self.workers = []  # (Device, Running)
        try:
            if len(home.devices) > 1:
                self._start_workers()
        except BaseException:
            self.close()
            raise

    def _keygen(self, device):
        path = os.path.join(device.folder, "device.key")
        if os.path.exists(path):
            os.remove(path)
        done = device.run([self._program, "keygen", path], timeout_s=60)
        if done.code != 0:
            raise RuntimeError(f"{device.name}: keygen: {done.errors}")
        return path, done.text().strip()

    def _start_workers(self):
        head = self._home.head
        key, public = self._keygen(head)
        self._flags += ["--key", key, "--listen", head.address]
        for device in self._home:
            if device is head:
                continue
            path, _ = self._keygen(device)
            worker = device.start([self._program, "worker", *_device_flags(device, self._model, self._tell_memory),
                                   "--key", path, "--allow", public, "--name", device.name, "--listen", device.address],
                                  sample=True)
            self.workers.append((device, worker))
            self._flags += ["--worker", worker.line("@")]

    def bench(self, n_prompt=1, n_generate=5, repetitions=1, n_ctx=512, extra=(), timeout_s=None):
        """Runs `hearth bench` on the head: (Run, what it printed as JSON or None)."""
        head = self._home.head
        run = head.run([self._program, "bench", *_device_flags(head, self._model, self._tell_memory), "--json",
                        "--prompt-tokens", str(n_prompt), "-n", str(n_generate), "-r", str(repetitions), "-c",
                        str(n_ctx), *self._flags, *extra], timeout_s=timeout_s, sample=True)
        text = run.text()
        try:
            return run, json.loads(text[text.index("{"):]) if run.code == 0 else None
        except ValueError:
            return run, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def stop(self):
        """Ends the workers as their owners would; {device: Run}. Killed workers end at once."""
        for _, worker in self.workers:
            worker.signal(signal.SIGINT)
        return {device.name: worker.wait(_PATIENCE_S) for device, worker in self.workers}

    def close(self):
        for _, worker in self.workers:
            worker.end()
