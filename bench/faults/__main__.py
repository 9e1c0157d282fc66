"""The program: see the package."""

import argparse
import contextlib
import glob
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

from home import disk, record
from home.__main__ import end_on_signals, make_1b, program, weight_bytes
from home.home import default_folder

_PATIENCE_S = 300
_DAMAGED_AFTER = 6  # tokens
_FIXED = 170 * 2**20  # what the program, its buffers and its reserve take besides weights
_RESERVE = 2**30  # hearth leaves this much of a disk free


def parse():
    parser = argparse.ArgumentParser(prog="faults", description="Damages the pack of a run that streams.")
    parser.add_argument("--layers", type=int, default=12, help="of the 1b shape; 12 are 0.6 GB (default)")
    parser.add_argument("--memory", type=int, default=50, help="for weights, in percent of them (default 50)")
    parser.add_argument("--tokens", type=int, default=16, help="of each run (default 16)")
    parser.add_argument("--results", default=os.path.join(record.RESULTS, "faults.jsonl"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    return parser.parse_args()


class Run:
    """A `hearth bench --each-token` of one text."""

    def __init__(self, model, cache, n_tokens, memory=None):
        lend = [] if memory is None else ["--memory", f"{memory}B"]
        self.process = subprocess.Popen(
            [program("hearth"), "bench", "-m", model, "--each-token", "--prompt-tokens", "1", "-n", str(n_tokens), "-r", "1",
             "-c", "256", "--cache-dir", cache, *lend], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.tokens, self.errors = [], []
        self._changed = threading.Condition()
        self._ended = False
        self._threads = [threading.Thread(target=self._read_tokens), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read_tokens(self):
        for line in self.process.stdout:
            if '"event":"token"' not in line:
                continue
            event = json.loads(line)
            with self._changed:
                if event["run"] == 0:  # the others say the same again
                    self.tokens.append(event["token"])
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_errors(self):
        self.errors.extend(line.strip() for line in self.process.stderr)

    def wait_for_tokens(self, n):
        with self._changed:
            self._changed.wait_for(lambda: len(self.tokens) >= n or self._ended, _PATIENCE_S)
        if len(self.tokens) < n:
            raise RuntimeError(f"no {n} tokens: {' '.join(self.errors)}")

    def wait(self):
        try:
            code = self.process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = None  # it hung
        for thread in self._threads:
            thread.join()
        return code


def only_pack(cache):
    [path] = glob.glob(os.path.join(cache, "*.pack"))
    return path


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


DAMAGE = {
    "pack removed": os.remove,
    "pack cut to a half": lambda path: os.truncate(path, os.path.getsize(path) // 2),
    "bit flipped in the header": lambda path: flip(path, 100),
    "bit flipped in weights": lambda path: flip(path, os.path.getsize(path) // 2),
    "a bit flipped every 64 MiB": lambda path: [flip(path, at) for at in range(1 << 20, os.path.getsize(path), 64 << 20)],
}


def judge(when, name, run, code, reference):
    right = run.tokens == reference[:len(run.tokens)]
    whole = code == 0 and len(run.tokens) == len(reference)
    said = next((line for line in reversed(run.errors) if "error" in line or ".pack" in line), "")
    if code is None:
        outcome = "HANGS"
    elif not right:
        outcome = "WRONG TOKENS"
    elif whole:
        outcome = "a new pack" if "anew" in said or "built" in said or "rebuilt" in said else "goes on"
    elif code > 0 and said:
        outcome = "error"
    else:
        outcome = f"ENDS WITH {code}, UNEXPLAINED"
    return {"when": when, "fault": name, "outcome": outcome, "tokens": len(run.tokens), "of": len(reference), "code": code,
            "said": said}


def damaged_pack_cases(model, folder, memory, options):
    reference = Run(model, os.path.join(folder, "unused"), options.tokens)
    reference.wait()
    for name, damage in DAMAGE.items():
        for when in ("before", "during"):
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                if when == "before":
                    subprocess.run([program("hearth"), "pack", "-m", model, "--cache-dir", cache], check=True,
                                   capture_output=True)
                    damage(only_pack(cache))
                run = Run(model, cache, options.tokens, memory)
                if when == "during":
                    run.wait_for_tokens(_DAMAGED_AFTER)
                    damage(only_pack(cache))
                code = run.wait()
                yield judge(when, name, run, code, reference.tokens)
                if code != 0:  # and what its error says to do helps
                    subprocess.run([program("hearth"), "pack", "--verify", "-m", model, "--cache-dir", cache], check=True,
                                   capture_output=True)
                    again = Run(model, cache, options.tokens, memory)
                    yield judge("then", "hearth pack --verify", again, again.wait(), reference.tokens)


def pack_into(model, cache):
    return subprocess.Popen([program("hearth"), "pack", "-m", model, "--cache-dir", cache], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def full_disk_cases(model, folder, weights):
    with disk.small_disk(folder, weights + _RESERVE // 2) as at:
        process = pack_into(model, at)
        errors = process.communicate(timeout=_PATIENCE_S)[1]
        yield pack_row("before", "too little room for the pack", process.returncode, errors, expect_error=True)
    with disk.small_disk(folder, weights + _RESERVE + (64 << 20)) as at:
        process = pack_into(model, at)
        deadline = time.monotonic() + _PATIENCE_S
        while not any(os.stat(path).st_blocks * 512 > 64 << 20 for path in glob.glob(os.path.join(at, "*"))):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"the pack does not grow: {process.communicate()[1]}")
            time.sleep(0.005)  # polls; the deadline decides
        process.send_signal(signal.SIGSTOP)  # packing is faster than filling
        filler = os.path.join(at, "filler")
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):  # until it is full
            while file.write(bytes(4 << 20)):
                pass
        process.send_signal(signal.SIGCONT)
        errors = process.communicate(timeout=_PATIENCE_S)[1]
        yield pack_row("during", "disk full while packing", process.returncode, errors, expect_error=True)
        os.remove(filler)
        process = pack_into(model, at)
        errors = process.communicate(timeout=_PATIENCE_S)[1]
        yield pack_row("then", "room again: packing goes on", process.returncode, errors, expect_error=False)


def pack_row(when, name, code, errors, expect_error):
    said = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    if expect_error:
        outcome = "error" if code > 0 and said else f"ENDS WITH {code}, UNEXPLAINED"
    else:
        outcome = "goes on" if code == 0 else f"ENDS WITH {code}"
    return {"when": when, "fault": name, "outcome": outcome, "tokens": None, "of": None, "code": code, "said": said}


def failing_read_cases():
    """Reads fail by injection in the program that tests the reader's user: a disk that fails is not to be had here."""
    name = "StreamedSource.AReadThatFailsIsAnErrorForEver"
    done = subprocess.run([program("residency_streamed_source_test"), f"--gtest_filter={name}"], capture_output=True, text=True)
    good = done.returncode == 0 and "[  PASSED  ] 1 test." in done.stdout
    yield {"when": "during", "fault": "a read fails", "outcome": "error" if good else "TEST FAILED", "tokens": None,
           "of": None, "code": done.returncode, "said": f"{name}: the first, the sixth, the 101st read"}


def main():
    options = parse()
    end_on_signals()
    line = record.start("faults", record.command_line(["faults", *sys.argv[1:]], [record.ROOT]))
    rows = []
    os.makedirs(default_folder(), exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=default_folder()) as folder:
            model = os.path.join(folder, "synth.gguf")
            make_1b(model, options.layers)
            weights = weight_bytes(model)
            memory = _FIXED + weights * options.memory // 100
            print(f"{weights / 1e6:.0f} MB of weights, {memory / 1e6:.0f} MB lent")
            print(f"{'when':<8}{'fault':<40}{'outcome':<12}{'tokens':>9}  said")
            for row in itertools.chain(damaged_pack_cases(model, folder, memory, options),
                                       full_disk_cases(model, folder, weights), failing_read_cases()):
                rows.append(row)
                tokens = "" if row["tokens"] is None else f"{row['tokens']}/{row['of']}"
                said = row["said"].replace(folder + "/", "")
                print(f"{row['when']:<8}{row['fault']:<40}{row['outcome']:<12}{tokens:>9}  {said}", flush=True)
                row["said"] = said
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    good = all(row["outcome"] in ("goes on", "a new pack", "error") for row in rows)
    print(f"never a wrong token, always an answer: {'holds' if good else 'DOES NOT HOLD'}")
    if not options.no_record:
        record.append(options.results, {**line, "weight_bytes": weights, "memory_bytes": memory, "cases": rows})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
