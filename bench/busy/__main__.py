"""The program: see the package."""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from busy.loads import Load, late, rate
from home import record
from home.__main__ import end_on_signals, make_1b, program

_PATIENCE_S = 60  # of one run; at SCHED_IDLE beside hogs it would take an hour
_SETTLE_S = 2.0
_LAST_S = 0.2


class Policy:
    """Threads, how it is scheduled (a prefix of the command), spins of an idle thread."""

    def __init__(self, threads, schedule, spins):
        self.threads, self.schedule, self.spins = threads, schedule, spins

    @property
    def name(self):
        return f"{self.threads} threads, {self.schedule}, {self.spins} spins"

    def command(self, words):
        words = words + ["--prio", "normal"]  # it would give way by itself
        prefix = {"usual": [], "idle": ["chrt", "--idle", "0"], "batch": ["chrt", "--batch", "0"]}.get(self.schedule)
        return (["nice", "-n", self.schedule.split()[1]] if prefix is None else prefix) + words


def policies(cores):
    usual = [Policy(cores, schedule, 10000) for schedule in ("usual", "batch", "nice 5", "nice 10", "nice 19", "idle")]
    return usual + [Policy(max(1, cores - 1), "usual", 10000), Policy(cores, "usual", 0), Policy(cores, "usual", 300000),
                    Policy(cores, "nice 5", 0), Policy(cores, "nice 10", 0)]


def generate(policy, model, n_tokens):
    """Decodes; when each token came. Of a run that takes too long: at its end as if one came then, which is too early."""
    words = [program("hearth"), "bench", "-m", model, "-t", str(policy.threads), "--each-token", "--prompt-tokens", "16",
             "-n", str(n_tokens), "-r", "1", "-c", "512"]
    times = []
    begin = time.monotonic()
    with subprocess.Popen(policy.command(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "GOMP_SPINCOUNT": str(policy.spins)}) as process:
        ended = threading.Event()

        def end():
            ended.set()
            process.kill()

        timer = threading.Timer(_PATIENCE_S, end)
        timer.start()
        for line in process.stdout:
            if '"event":"token"' in line and json.loads(line)["run"] == 1:
                times.append(time.monotonic())
        errors = process.stderr.read()
        process.wait()
        timer.cancel()
        if ended.is_set():
            return (times or [begin]) + [time.monotonic()]
        if process.returncode != 0 or len(times) < 2:
            raise RuntimeError(f"hearth bench: exit code {process.returncode}: {errors.strip()}")
    return times


def measure(policy, model, n_tokens, cores):
    found = {}
    for load in (None, "hog", "video"):
        busy = Load(load, cores if load == "hog" else 1) if load else None
        times = generate(policy, model, n_tokens)
        samples = None
        if busy:
            time.sleep(_LAST_S)  # for a sample after the last token
            samples = busy.end()
        found[f"{load or 'alone'}_s"] = (times[-1] - times[0]) / (len(times) - 1)
        if load == "hog":
            found["hog_rate"] = rate(samples, times[0], times[-1])
        if load == "video":
            found["late"] = late(samples, times[0], times[-1])
    return found


def undisturbed(cores):
    """The loads without hearth: loops a second, share of late frames."""
    found = {}
    for load in ("hog", "video"):
        busy = Load(load, cores if load == "hog" else 1)
        time.sleep(_LAST_S)
        begin = time.monotonic()
        time.sleep(_SETTLE_S)
        end = time.monotonic()
        time.sleep(_LAST_S)
        found[load] = rate(busy.end(), begin, end) if load == "hog" else late(busy.end(), begin, end)
    return found


def parse():
    parser = argparse.ArgumentParser(prog="busy", description="A busy machine and hearth.")
    parser.add_argument("--layers", type=int, default=16, help="of the 1b shape (default 16)")
    parser.add_argument("--tokens", type=int, default=48, help="decoded in each run (default 48)")
    parser.add_argument("--rounds", type=int, default=5, help="of all policies (default 5)")
    parser.add_argument("--results", default=os.path.join(record.RESULTS, "busy.jsonl"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    return parser.parse_args()


def main():
    options = parse()
    end_on_signals()
    cores = os.cpu_count()
    line = record.start("busy", record.command_line(["busy", *sys.argv[1:]], [record.ROOT]))
    found = {policy.name: [] for policy in policies(cores)}
    alone = []
    try:
        with tempfile.TemporaryDirectory(prefix="hearth-busy-") as folder:
            model = os.path.join(folder, "synth.gguf")
            make_1b(model, options.layers)
            for _ in range(options.rounds):
                alone.append(undisturbed(cores))
                for policy in random.sample(policies(cores), len(found)):
                    found[policy.name].append(measure(policy, model, options.tokens, cores))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"busy: {error}", file=sys.stderr)
        return 1
    hog = statistics.median(run["hog"] for run in alone)
    rows = []
    print(f"{'':<36}{'alone':>9}{'hogs':>9}{'hogs slowed':>13}{'video':>9}{'frames late':>13}   ms a token, medians of {options.rounds}")
    print(f"{'without hearth':<36}{'':>9}{'':>9}{'':>13}{'':>9}{statistics.median(run['video'] for run in alone):>13.1%}")
    for name, runs in found.items():
        row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        row["hog_slowed"] = hog / row["hog_rate"]
        rows.append({"policy": name, **row, "runs": runs})
        print(f"{name:<36}{row['alone_s'] * 1e3:>9.1f}{row['hog_s'] * 1e3:>9.1f}{row['hog_slowed']:>12.2f}x"
              f"{row['video_s'] * 1e3:>9.1f}{row['late']:>13.1%}")
    if not options.no_record:
        for row in rows:
            record.append(options.results, {**line, "hog_alone_rate": hog, "tokens": options.tokens,
                                            "rounds": options.rounds, **row})
    return 0


if __name__ == "__main__":
    sys.exit(main())
