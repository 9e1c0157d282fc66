#!/usr/bin/env python3
"""Ring overhead on loopback: the part of a token's period in which no device computes.

A ring of 4 processes over CURVE, one token in flight, so the devices compute one after another and
    overhead = (elapsed - sum of the compute spans measured inside the processes) / elapsed.
Environment: HEARTH_PROGRAM, HEARTH_SYNTH (hearth-synth), HEARTH_MODELS. Appends a record to
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

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, os.path.join(ROOT, "tests", "cluster"))
from ring import MODELS, Ring  # noqa: E402


def main():
    n_tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        model = os.path.join(folder, "model.gguf")
        # 110 MB: about 20 ms a token where memory is read at 6 GB/s by one thread.
        subprocess.run([os.environ["HEARTH_SYNTH"], "--layers", "8", "--embd", "1536", "--heads", "12", "--kv-heads",
                        "4", "--ff", "4096", "--type", "Q4_K_M", "--vocab-from",
                        os.path.join(MODELS, "ember-q8_0.gguf"), "-o", model], check=True,
                       stdout=subprocess.DEVNULL)
        with Ring(3, model=model) as ring:
            workers = [item for address in ring.addresses for item in ("--worker", address)]
            bench = ring.start("bench", "-m", model, "--key", ring.head_key, "-t", "1", "-c", "1024", "--json",
                               "--prompt-tokens", "1", "-n", str(n_tokens), "-r", "1", *workers)
            if bench.wait(900) != 0:
                sys.exit(bench.err.text())
            result = json.loads(bench.out.text())
            spans = [result["head_compute_s"]]
            for worker in ring.workers:
                line = worker.err.wait_for(r"s of computing")[1]
                spans.append(float(re.search(r"([0-9.]+) s of computing", line)[1]))
    elapsed = result["elapsed_s"]
    overhead = (elapsed - sum(spans)) / elapsed
    n_periods = 2 * n_tokens  # the warm-up run counts as well
    hops = 4
    record = {
        "bench": "ring-overhead", "time": int(time.time()), "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(), "commit": subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"],
                                                          capture_output=True, text=True).stdout.strip(),
        "processes": 4, "tokens": n_periods, "period_ms": 1e3 * elapsed / n_periods,
        "compute_ms": 1e3 * sum(spans) / n_periods, "overhead": overhead,
        "us_outside_compute_per_hop": 1e6 * (elapsed - sum(spans)) / n_periods / hops,
    }
    print(f"{n_periods} tokens, period {record['period_ms']:.2f} ms, of it computing {record['compute_ms']:.2f} ms")
    print(f"overhead {100 * overhead:.2f} %, {record['us_outside_compute_per_hop']:.0f} us per hop")
    os.makedirs(os.path.join(ROOT, "bench", "results"), exist_ok=True)
    with open(os.path.join(ROOT, "bench", "results", "ring.jsonl"), "a") as out:
        out.write(json.dumps(record) + "\n")


main()
