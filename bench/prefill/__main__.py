"""The program: see the package."""

import argparse
import json
import os
import subprocess
import sys

from home import Home, ScenarioError, record
from home.__main__ import end_on_signals, make_1b, program, weight_bytes
from home.hearth_ring import threads_of
from home.scenario import parse_scenario

_PATIENCE_S = 900
_MOST_READ = 1.03  # of the streamed bytes


def parse():
    parser = argparse.ArgumentParser(prog="prefill", description="A long prompt where weights are streamed.")
    parser.add_argument("--layers", type=int, default=32, help="of the 1b shape; 32 are 1.4 GB (default)")
    parser.add_argument("--memory", type=int, default=50, help="of the device, in percent of the weights (default 50)")
    parser.add_argument("--disk", type=int, default=500, help="MB/s (default 500)")
    parser.add_argument("--tokens", type=int, default=512, help="of the prompt (default 512)")
    parser.add_argument("--batch", type=int, default=128, help="tokens computed at once (default 128)")
    parser.add_argument("--results", default=os.path.join(record.RESULTS, "prefill.jsonl"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    return parser.parse_args()


def prompt(device, model, weights, n_tokens, batch, n_ctx):
    """Of the second of two equal prompts: (seconds, bytes read, bytes streamed in a pass)."""
    run = device.run([program("hearth"), "bench", "-m", device.file(model), "-t", str(threads_of(device)),
                      "--memory", f"{device.memory_limit}B", "--each-token", "--prompt-tokens", str(n_tokens), "-n", "2",
                      "-r", "1", "-ub", str(batch), "-c", str(n_ctx)], timeout_s=_PATIENCE_S)
    if run.code != 0:
        raise RuntimeError(f"hearth bench: exit code {run.code}: {run.errors.strip()}")
    events = [(at, json.loads(line)) for at, line in run.lines if '"event":"token"' in line]
    _, last = [(at, event) for at, event in events if event["run"] == 0][-1]
    started = [at for at, event in events if event["run"] == 0][-1]
    first_at, first = next((at, event) for at, event in events if event["run"] == 1)
    return first_at - started, first["read_bytes"] - last["read_bytes"], weights - first["pinned_bytes"]


def measure(home, model, options):
    device = home.head
    weights = weight_bytes(device.file(model))
    rates = home.calibrate_disks(model)
    device.limit_disk(None)
    packed = device.run([program("hearth"), "pack", "-m", device.file(model)], timeout_s=_PATIENCE_S)
    if packed.code != 0:
        raise RuntimeError(f"hearth pack: {packed.errors}")
    home.limit_disks(rates)
    device.limit_memory(weights * options.memory // 100)
    n_ctx = options.tokens + 64
    together = prompt(device, model, weights, options.tokens, options.batch, n_ctx)
    one = prompt(device, model, weights, options.batch, options.batch, n_ctx)
    return {"weight_bytes": weights, "memory_bytes": device.memory_limit, "disk_bytes_per_s": device.disk_limit,
            "n_prompt": options.tokens, "n_ubatch": options.batch,
            **{f"{name}_{what}": value for name, found in (("prompt", together), ("batch", one))
               for what, value in zip(("s", "read_bytes", "streamed_bytes"), found)}}


def print_table(found):
    n = -(-found["n_prompt"] // found["n_ubatch"])
    print(f"{found['weight_bytes'] / 1e6:.0f} MB of weights, {found['memory_bytes'] / 1e6:.0f} MB of memory, disk "
          f"{found['disk_bytes_per_s'] / 1e6:.0f} MB/s")
    print(f"{'':<48}{'s':>8}{'MB read':>10}{'of the streamed bytes':>24}")
    for name, times, of in (
            (f"{found['n_prompt']} tokens in batches of {found['n_ubatch']}, together", 1, "prompt"),
            (f"{found['n_ubatch']} tokens, one batch", 1, "batch"), (f"{n} such batches, one after the other", n, "batch")):
        read = times * found[f"{of}_read_bytes"]
        print(f"{name:<48}{times * found[f'{of}_s']:>8.2f}{read / 1e6:>10.0f}{read / found[f'{of}_streamed_bytes']:>24.2f}")
    once = found["prompt_read_bytes"] <= _MOST_READ * found["prompt_streamed_bytes"]
    print(f"each streamed byte is read once for the prompt: {'holds' if once else 'DOES NOT HOLD'}")
    return once


def main():
    options = parse()
    end_on_signals()
    line = record.start("prefill", record.command_line(["prefill", *sys.argv[1:]], [record.ROOT]))
    scenario = parse_scenario({"device": [{"name": "d1", "role": "head", "disk_mb_s": options.disk}]}, "prefill")
    try:
        with Home(scenario) as home:
            if home.no_limits:
                raise RuntimeError(f"without limits there is nothing to measure here: {home.no_limits}")
            make_1b(home.head.file("synth.gguf"), options.layers)
            found = measure(home, "synth.gguf", options)
    except (ScenarioError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"prefill: {error}", file=sys.stderr)
        return 1
    good = print_table(found)
    if not options.no_record:
        record.append(options.results, {**line, **found})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
