"""The program: see the package."""

import argparse
import os
import statistics
import subprocess
import sys

from home import Home, ScenarioError, record
from home.__main__ import end_on_signals, program, weight_bytes
from home.hearth_ring import HearthRing
from home.scenario import parse_scenario

_PATIENCE_S = 900
_LEAST_GAIN, _MOST_OF_BOUND = 2.0, 1.25
# The part of the machine's memory that weights may take to be computed with, without any disk.
_IN_MEMORY = 0.6


def parse():
    parser = argparse.ArgumentParser(prog="rounds", description="Which number of rounds is best for a ring that streams.")
    parser.add_argument("--shape", default="8b", help="of the model, as hearth-synth takes it (default 8b: 4.6 GB of weights)")
    parser.add_argument("--layers", type=int, help="of that shape (default: all it has)")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--memory", type=int, default=60, help="of all devices, in percent of the weights (default 60)")
    parser.add_argument("--disk", type=int, default=150, help="MB/s of each device (default 150)")
    parser.add_argument("--cores", type=float, default=0.5, help="of each device (default 0.5)")
    parser.add_argument("--rounds", default="1,2,4,8,12,16",
                        help="the sweep (default 1,2,4,8,12,16); auto is always tried, with 'auto' alone")
    parser.add_argument("--tokens", type=int, default=4, help="that count, after as many that warm up (default 4)")
    parser.add_argument("--results", default=os.path.join(record.RESULTS, "rounds.jsonl"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    return parser.parse_args()


def run(home, model, rounds, n_tokens):
    """hearth's own report and the bytes read per token by all devices while the counted tokens were generated."""
    home.forget_caches()
    with HearthRing(home, program("hearth"), model) as ring:
        one, result = ring.bench(n_prompt=1, n_generate=n_tokens + 1, extra=("--rounds", str(rounds)),
                                 timeout_s=_PATIENCE_S)
        runs = [one, *ring.stop().values()]
    if result is None:
        raise RuntimeError(f"{rounds} rounds: exit code {one.code}: {one.errors.strip()}")
    if any(each.use.oom_kills for each in runs):
        raise RuntimeError(f"{rounds} rounds: a process was killed for memory")
    end = next(at for at, line in one.lines if line.startswith("{"))
    used = [each.used_between(end - n_tokens * result["tpot_s"], end) for each in runs]
    read = sum(use[0] for use in used) / n_tokens if all(use is not None for use in used) else None
    return result, read


def bound_s(rounds, n_devices, compute_s, excess_s):
    if excess_s <= 0:
        return compute_s
    if rounds == 1:
        return n_devices * max(compute_s / n_devices, excess_s)
    return max(compute_s, excess_s * rounds / (rounds - 1))


def compute_alone(home, model, weights, options):
    """Seconds of computing per token, or None where this machine's memory is too small to tell."""
    if weights > _IN_MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        return None
    for device in home:
        device.limit_disk(None)
        device.limit_memory(None)
    return run(home, model, 1, options.tokens)[0]["tpot_s"]


def measure(home, model, weights, options):
    n = len(home.devices)
    rates = home.calibrate_disks(model)
    compute_s = compute_alone(home, model, weights, options)
    alone = "too much to be computed in memory here, bounds count disks only" if compute_s is None else (
        f"computing alone {compute_s:.3f} s a token")
    print(f"{weights / 1e6:.0f} MB of weights; {alone}; the disk gives "
          f"{', '.join(f'{rate / 1e6:.0f}' for rate in rates)} MB/s while all read", flush=True)
    memory = int(weights * options.memory / 100) // n
    for device in home:
        device.limit_memory(memory)
    swept = [] if options.rounds == "auto" else options.rounds.split(",")
    if swept:
        for device in home:
            device.limit_disk(None)
        for rounds in [*swept, "auto"]:  # makes the packs
            run(home, model, rounds, 1)
    home.limit_disks(rates)
    rate = min(device.disk_rate(device.file(model)) for device in home)
    print(f"{n} devices of {memory / 1e6:.0f} MB, {rate / 1e6:.0f} MB/s each")
    print(f"{'rounds':<8}{'s/token':>9}{'bound':>9}{'ratio':>7}{'MB read':>9}{'predicted':>11}")
    rows = []
    for asked in [*swept, "auto"]:
        result, read = run(home, model, asked, options.tokens)
        of = result["residency"]
        excess = of["pinned_bytes"] + of["streamed_bytes_per_token"] - of["budget_bytes"]
        if excess <= 0 and compute_s is None:
            raise RuntimeError("everything fits the memory: nothing is streamed, there is nothing to measure")
        bound = bound_s(result["rounds"], n, compute_s or 0, excess / rate)
        rows.append({"asked": asked, "rounds": result["rounds"], "s_per_token": statistics.median(result["tpot_s_all"]),
                     "bound_s": bound, "predicted_s": result["predicted_tpot_s"], "read_bytes_per_token": read,
                     "head": of})
        row = rows[-1]
        print(f"{asked if asked != 'auto' else 'auto:' + str(row['rounds']):<8}{row['s_per_token']:>9.3f}{bound:>9.3f}"
              f"{row['s_per_token'] / bound:>7.2f}{'' if read is None else f'{read / 1e6:.0f}':>9}"
              f"{row['predicted_s'] or float('nan'):>11.3f}", flush=True)
    return {"weight_bytes": weights, "devices": n, "memory_bytes": memory, "disk_bytes_per_s": rate,
            "compute_s": compute_s, "sweep": rows}


def verdict(found):
    swept = [row for row in found["sweep"] if row["asked"] != "auto"]
    chosen = next(row for row in found["sweep"] if row["asked"] == "auto")
    best = min(found["sweep"], key=lambda row: row["s_per_token"])
    one = next((row for row in swept if row["rounds"] == 1), None)
    ratio = best["s_per_token"] / best["bound_s"]
    checks = [(f"the best number, {best['rounds']}, within {_MOST_OF_BOUND} of its bound: {ratio:.2f}", ratio <= _MOST_OF_BOUND)]
    if swept:
        # The choice is judged by numbers that were not chosen.
        of_sweep = min(swept, key=lambda row: row["s_per_token"])["rounds"]
        steps = sorted({row["rounds"] for row in swept} | {chosen["rounds"]})
        apart = abs(steps.index(chosen["rounds"]) - steps.index(of_sweep))
        checks.append((f"hearth's choice, {chosen['rounds']}, at most one step from the best of the sweep, {of_sweep}: {apart}",
                       apart <= 1))
    if one is not None:
        gain = one["s_per_token"] / best["s_per_token"]
        checks.insert(0, (f"{gain:.2f} times as fast as one round, at least {_LEAST_GAIN}", gain >= _LEAST_GAIN))
    for text, good in checks:
        print(f"{text}: {'holds' if good else 'DOES NOT HOLD'}")
    return all(good for _, good in checks)


def main():
    options = parse()
    end_on_signals()
    line = record.start("rounds", record.command_line(["rounds", *sys.argv[1:]], [record.ROOT]))
    devices = [{"name": f"d{i + 1}", "cores": options.cores, "disk_mb_s": options.disk, "link_mbit_s": 1000}
               for i in range(options.devices)]
    devices[0]["role"] = "head"
    try:
        with Home(parse_scenario({"device": devices}, "rounds")) as home:
            if home.no_limits:
                raise RuntimeError(f"without limits there is nothing to measure here: {home.no_limits}")
            model = home.head.file("synth.gguf")
            layers = [] if options.layers is None else ["--layers", str(options.layers)]
            subprocess.run([program("hearth-synth"), "--shape", options.shape, *layers, "--type", "Q4_K_M", "-o", model],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # One file for all devices: of it only rows of the embedding are read once there are packs.
            for device in home:
                if device is not home.head:
                    os.link(model, device.file(model))
            found = measure(home, "synth.gguf", weight_bytes(model), options)
    except (ScenarioError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"rounds: {error}", file=sys.stderr)
        return 1
    good = verdict(found)
    if not options.no_record:
        record.append(options.results, {**line, **found})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
