#!/usr/bin/env python3
"""Ring overhead on loopback: the part of a token's period in which no device computes.

A ring of 4 processes over CURVE, one token in flight, so the devices compute one after another and
    overhead = (elapsed - sum of the compute spans measured inside the processes) / elapsed.
Beside it the floor: a ring of processes that pass frames of the same size by blocking TCP and read as much memory in
between (tcp_ring), before and after.
Measured twice: on all cores, where each hop wakes an idle core, which a virtual machine's hypervisor makes slow; and with all
processes on one core, which is awake: what is left is this program's and the kernel's own work, of all its threads.
Environment: HEARTH_PROGRAM, HEARTH_SYNTH (hearth-synth), HEARTH_TCP_RING, HEARTH_MODELS. Appends a record to
bench/results/ring.jsonl. Arguments: [tokens, 500].
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time

TARGET_MS = 20
N_DEVICES = 4
FIRST_LAYERS = 8

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, os.path.join(ROOT, "tests", "cluster"))
from ring import MODELS, Ring  # noqa: E402


def make_model(path, layers):
    subprocess.run([os.environ["HEARTH_SYNTH"], "--layers", str(layers), "--embd", "1536", "--heads", "12", "--kv-heads",
                    "4", "--ff", "4096", "--type", "Q4_K_M", "--vocab-from",
                    os.path.join(MODELS, "ember-q8_0.gguf"), "-o", path], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(model, n_tokens, cores):
    """The head's report and the seconds that each process computed, on `cores`; this process keeps off them if it can."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    with Ring(3, model=model) as ring:
        workers = [item for address in ring.addresses for item in ("--worker", address)]
        bench = ring.start("bench", "-m", model, "--key", ring.head_key, "-t", "1", "-c", "1024", "--json",
                           "--prompt-tokens", "1", "-n", str(n_tokens), "-r", "1", *workers)
        os.sched_setaffinity(0, everywhere - cores or everywhere)
        if bench.wait(900) != 0:
            sys.exit(bench.err.text())
        result = json.loads(bench.out.text())
        spans = [result["head_compute_s"]]
        for worker in ring.workers:
            line = worker.err.wait_for(r"s of computing")[1]
            spans.append(float(re.search(r"([0-9.]+) s of computing", line)[1]))
    os.sched_setaffinity(0, everywhere)
    return result, spans


def floor_us(layers, cores):
    """Mean microseconds of a bare hop between processes on `cores` that read a quarter of the weights in between."""
    mib = round(layers * 13.8 / N_DEVICES)
    done = subprocess.run([os.environ["HEARTH_TCP_RING"], str(N_DEVICES), "6200", str(mib), "300"], check=True,
                          capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    return json.loads(done.stdout)["mean_us"]


def overhead(layers, model, n_tokens, cores):
    """A ring on `cores` and the floor before and after it, as a record."""
    floors = [floor_us(layers, cores)]
    result, spans = measure(model, n_tokens, cores)
    floors.append(floor_us(layers, cores))
    elapsed = result["elapsed_s"]
    n_periods = 2 * n_tokens  # the warm-up run counts as well
    record = {
        "bench": "ring-overhead", "time": int(time.time()), "machine": platform.processor() or platform.machine(),
        "cores": len(cores), "commit": subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"],
                                                      capture_output=True, text=True).stdout.strip(),
        "processes": N_DEVICES, "layers": layers, "tokens": n_periods, "period_ms": 1e3 * elapsed / n_periods,
        "compute_ms": 1e3 * sum(spans) / n_periods, "overhead": (elapsed - sum(spans)) / elapsed,
        "us_outside_compute_per_hop": 1e6 * (elapsed - sum(spans)) / n_periods / N_DEVICES,
        "floor_us_per_hop": floors,
    }
    of_floor = " and ".join(f"{us:.0f} us ({us * N_DEVICES / 10 / record['period_ms']:.2f} %)" for us in floors)
    print(f"on {len(cores)} core{'s' if len(cores) > 1 else ''}: {n_periods} tokens, period {record['period_ms']:.2f} ms, "
          f"of it computing {record['compute_ms']:.2f} ms: overhead {100 * record['overhead']:.2f} %, "
          f"{record['us_outside_compute_per_hop']:.0f} us per hop; a bare TCP hop {of_floor}", flush=True)
    return record


def main():
    n_tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        model = os.path.join(folder, "model.gguf")
        # As many layers as give TARGET_MS a token on this machine.
        make_model(model, FIRST_LAYERS)
        result, _ = measure(model, 100, cores)
        layers = max(FIRST_LAYERS, round(FIRST_LAYERS * TARGET_MS / (1e3 * result["tpot_s"]) / 4) * 4)
        make_model(model, layers)
        records = [overhead(layers, model, n_tokens, cores)]
        if len(cores) > 1:
            records.append(overhead(layers, model, n_tokens, {max(cores)}))
    os.makedirs(os.path.join(ROOT, "bench", "results"), exist_ok=True)
    with open(os.path.join(ROOT, "bench", "results", "ring.jsonl"), "a") as out:
        out.writelines(json.dumps(record) + "\n" for record in records)


main()
