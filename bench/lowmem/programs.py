"""The programs that are compared: how each is run in a home, and what its run says."""

import dataclasses
import json
import os

from home.hearth_ring import HearthRing, threads_of

# Loading reads everything once and may take long under a tight limit; it is bounded, but not what is capped.
_LOAD_PATIENCE_S = 600

N_CTX = 512


@dataclasses.dataclass
class Measured:
    """One run of one program. What a program or the kernel does not say is None."""

    status: str  # ok, capped, OOM-killed, refused, failed
    message: str = ""
    s_per_token: list = dataclasses.field(default_factory=list)
    read_bytes_per_token: float | None = None  # of all devices, as the kernel counts them
    major_faults_per_token: float | None = None
    memory_failures: int = 0
    oom_kills: int = 0
    peak_memory_bytes: int = 0  # of the device with most
    anonymous_bytes: int | None = None  # of all devices, while the counted tokens ran
    taken_share: float = 0.0  # by a hypervisor and by programs of no device
    residency: dict = dataclasses.field(default_factory=dict)  # what hearth says of itself, see `hearth bench --json`


def _outcome(runs, finished):
    """(status, message) of the program whose first run is the one that answers."""
    first = runs[0]
    last_words = next((line for line in reversed(first.errors.splitlines()) if line.strip()), "")
    if any(run.use.oom_kills for run in runs):
        return "OOM-killed", last_words
    if first.capped:
        return "capped", ""
    if finished:
        return "ok", ""
    return ("refused" if first.code == 4 else "failed"), last_words or f"exit code {first.code}"


def _common(runs, finished):
    status, message = _outcome(runs, finished)
    return Measured(status, message, memory_failures=sum(run.use.memory_failures for run in runs),
                    oom_kills=sum(run.use.oom_kills for run in runs),
                    peak_memory_bytes=max(run.use.peak_memory_bytes for run in runs),
                    taken_share=runs[0].taken_share)


class Llama:
    """libllama on the first device. `read_ahead_kib`: None for the machine's."""

    def __init__(self, name, program, flags, read_ahead_kib=None):
        self.name, self._program, self._flags, self._read_ahead_kib = name, program, flags, read_ahead_kib

    def fits(self, case):
        return case.n_devices == 1

    def run(self, home, model, n_tokens, cap_s):
        before = home.read_ahead()
        if self._read_ahead_kib is not None:
            home.set_read_ahead(self._read_ahead_kib)
        try:
            home.forget_caches()
            device = home.head
            run = device.run([self._program, "-m", device.file(model), "-t", threads_of(device), "-c", N_CTX, "-n",
                              n_tokens, "--cap", cap_s, *self._flags], sample=True,
                             timeout_s=_LOAD_PATIENCE_S + (n_tokens + 2) * cap_s)
        finally:
            home.set_read_ahead(before)
        events = [(at, json.loads(line)) for at, line in run.lines]
        tokens = [(at, event) for at, event in events if event["event"] == "token" and not event["warm_up"]]
        measured = _common([run], any(event["event"] == "done" for _, event in events))
        if any(event["event"] == "capped" for _, event in events):
            measured.status, measured.message = "capped", f"a token took more than {cap_s} s"
        if tokens:
            measured.s_per_token = [event["s"] for _, event in tokens]
            measured.read_bytes_per_token = sum(event["read_bytes"] for _, event in tokens) / len(tokens)
            measured.major_faults_per_token = sum(event["major_faults"] for _, event in tokens) / len(tokens)
            measured.anonymous_bytes = run.most_anonymous_between(tokens[0][0] - tokens[0][1]["s"], tokens[-1][0])
        return measured


class Hearth:
    """hearth on all devices."""

    name = "hearth"

    def __init__(self, program):
        self._program = program

    def fits(self, case):
        return True

    def prepare(self, home, model):
        """Makes the packs, where this hearth has a verb for it, so that no measured run does."""
        said = home.head.run([self._program, "--help"], timeout_s=60).text()
        if not any(line.split()[:1] == ["pack"] for line in said.splitlines()):
            return
        for device in home:
            run = device.run([self._program, "pack", "-m", device.file(model)], timeout_s=_LOAD_PATIENCE_S)
            if run.code != 0:
                print(f"{device.name}: hearth pack: exit code {run.code}: {run.errors.strip()}; its first run packs")

    def run(self, home, model, n_tokens, cap_s):
        home.forget_caches()
        try:
            with HearthRing(home, self._program, model) as ring:
                # One run that warms up and one that counts, each of a prompt of one token and the tokens after it.
                run, result = ring.bench(n_prompt=1, n_generate=n_tokens + 1, repetitions=1, n_ctx=N_CTX,
                                         timeout_s=_LOAD_PATIENCE_S + 2 * (n_tokens + 1) * cap_s)
                runs = [run, *ring.stop().values()]
        except RuntimeError as error:  # a worker that never said where it listens
            for device in home:
                device.end_processes()
            return Measured("failed", "; ".join(line for line in str(error).splitlines() if line.strip()))
        measured = _common(runs, result is not None)
        if result is None:
            return measured
        measured.s_per_token = list(result["tpot_s_all"])
        measured.residency = result.get("residency") or {}
        # It prints its result when the last token is there, so the counted ones took the time before that.
        end = next(at for at, line in run.lines if line.startswith("{"))
        start = end - n_tokens * result["tpot_s"]
        used = [one.used_between(start, end) for one in runs]
        if all(use is not None for use in used):
            measured.read_bytes_per_token = sum(use[0] for use in used) / n_tokens
            measured.major_faults_per_token = sum(use[1] for use in used) / n_tokens
        anonymous = [one.most_anonymous_between(start, end) for one in runs]
        if None not in anonymous:
            measured.anonymous_bytes = sum(anonymous)
        return measured


def all_programs(folder):
    """In the order in which they take turns."""
    llama = os.path.join(folder, "llama-decode")
    return [Hearth(os.path.join(folder, "hearth")),
            Llama("libllama mmap, 128 KiB ahead", llama, ["--mmap", "--no-repack"], 128),
            Llama("libllama mmap", llama, ["--mmap", "--no-repack"]),
            Llama("libllama defaults", llama, [])]
