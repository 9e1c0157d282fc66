"""The program: see the package."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from home import Home, ScenarioError, memory, record
from home.__main__ import end_on_signals, make_1b, program, weight_bytes
from home.hearth_ring import threads_of
from home.scenario import parse_scenario

_OTHER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "other.py")
_PATIENCE_S = 600
_N_CTX = 2048
_WARM_UP = 3  # tokens

# What must hold.
_MOST_EXTRA_S, _MOST_FACTOR, _BACK_FACTOR, _BACK_S = 2.0, 1.5, 1.1, 30.0


def parse():
    parser = argparse.ArgumentParser(prog="pressure", description="Another program takes memory while hearth generates.")
    parser.add_argument("--layers", type=int, default=32, help="of the 1b shape; 32 are 1.4 GB (default)")
    parser.add_argument("--memory", type=int, default=75, help="of the device, in percent of the weights (default 75)")
    parser.add_argument("--disk", type=int, default=500, help="MB/s of the device (default 500)")
    parser.add_argument("--share", type=float, default=0.5, help="what the other takes, of what is pinned (default 0.5)")
    parser.add_argument("--before", type=int, default=10, help="tokens before it comes (default 10)")
    parser.add_argument("--during", type=float, default=20, help="seconds that it stays (default 20)")
    parser.add_argument("--after", type=float, default=40, help="seconds after it has gone (default 40)")
    parser.add_argument("--results", default=os.path.join(record.RESULTS, "pressure.jsonl"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    return parser.parse_args()


def tokens_of(lines):
    """[(time, event)] of a `hearth bench --each-token`: of its first text, which goes on for as long as we look."""
    events = [(at, json.loads(line)) for at, line in lines if '"event":"token"' in line]
    return [(at, event) for at, event in events if event["run"] == 0]


def start_hearth(device, model):
    memory = [] if device.memory_limit is None else ["--memory", f"{device.memory_limit}B"]
    return device.start([program("hearth"), "bench", "-m", device.file(model), "-t", str(threads_of(device)), *memory,
                         "--each-token", "--prompt-tokens", "1", "-n", str(_N_CTX), "-c", str(_N_CTX)], sample=True)


def seconds_between(tokens, start, end):
    """Of each token that began and ended between two times."""
    return [b - a for (a, _), (b, _) in zip(tokens, tokens[1:]) if a >= start and b <= end]


def alone(device, n_bytes, seconds=5.0):
    """Median seconds in which the other program touches its memory, with the device to itself."""
    running = device.start([sys.executable, _OTHER, n_bytes])
    running.line("taken", _PATIENCE_S)
    time.sleep(seconds)
    running.end()
    return statistics.median(float(line) for _, line in running.so_far() if line != "taken")


def measure(home, model, weights, options):
    device = home.head
    rates = home.calibrate_disks(model)
    device.limit_disk(None)
    packed = device.run([program("hearth"), "pack", "-m", device.file(model)], timeout_s=_PATIENCE_S)
    if packed.code != 0:
        raise RuntimeError(f"hearth pack: {packed.errors}")
    device.limit_disk(int(min(options.disk * 1e6, 0.8 * rates[0])))
    rate = device.disk_rate(device.file(model))
    home.forget_caches()

    hearth = start_hearth(device, model)
    hearth.wait_for_output(lambda lines: len(tokens_of(lines)) > _WARM_UP + options.before, _PATIENCE_S)
    pinned = tokens_of(hearth.so_far())[0][1]["pinned_bytes"]
    taken = int(options.share * pinned)
    free_before = memory.available()
    came = time.monotonic()
    other = device.start([sys.executable, _OTHER, taken])
    other.line("taken", _PATIENCE_S)
    has_it = time.monotonic()
    drop = free_before - memory.available()
    time.sleep(options.during)
    other_seconds = [float(line) for at, line in other.so_far() if line != "taken" and at > has_it + 2]
    gone = time.monotonic()
    other.end()
    hearth.wait_for_output(lambda lines: lines[-1][0] > gone + options.after, _PATIENCE_S)
    seen = tokens_of(hearth.so_far())
    hearth.end()
    run = hearth.wait(20)

    # The same tokens without anybody else.
    device.limit_memory(None)
    device.limit_disk(None)
    plain = start_hearth(device, model)
    plain.wait_for_output(lambda lines: len(tokens_of(lines)) >= len(seen), _PATIENCE_S)
    of_plain = tokens_of(plain.so_far())[:len(seen)]
    plain.end()
    exact = [event["token"] for _, event in seen] == [event["token"] for _, event in of_plain]

    before = statistics.median(seconds_between(seen[_WARM_UP:], 0, came))
    least = min(event["pinned_bytes"] for at, event in seen if came < at < gone)
    predicted = max(before, (weights - least) / rate)
    during = [b - a for (a, _), (b, _) in zip(seen, seen[1:]) if b > came and a < gone]
    after = [(b, b - a) for (a, _), (b, _) in zip(seen, seen[1:]) if a > gone]
    back = next((at - gone for i, (at, _) in enumerate(after)
                 if statistics.median(s for _, s in after[i:i + 5]) <= _BACK_FACTOR * before), None)
    alone_s = alone(device, taken)
    return {
        "weight_bytes": weights, "memory_bytes": int(weights * options.memory / 100), "disk_bytes_per_s": rate,
        "pinned_bytes": pinned, "taken_bytes": taken, "least_pinned_bytes": least,
        "pinned_at_end_bytes": seen[-1][1]["pinned_bytes"], "tokens": len(seen),
        "s_per_token_before": before, "s_per_token_predicted": predicted,
        "s_per_token_during": statistics.median(during), "longest_token_s": max(during),
        "allowed_token_s": _MOST_EXTRA_S + _MOST_FACTOR * predicted,
        "s_per_token_at_end": statistics.median(s for _, s in after[-5:]), "back_after_s": back,
        "oom_kills": run.use.oom_kills, "exact": exact,
        "other_touch_s": statistics.median(other_seconds), "other_touch_alone_s": alone_s,
        "other_slowdown": statistics.median(other_seconds) / alone_s - 1, "available_drop_bytes": drop,
        "major_faults": run.use.major_faults,
    }


def print_table(found):
    mb, yes = 1e6, lambda good: "holds" if good else "DOES NOT HOLD"
    print(f"{found['weight_bytes'] / mb:.0f} MB of weights, {found['memory_bytes'] / mb:.0f} MB of memory, "
          f"disk {found['disk_bytes_per_s'] / mb:.0f} MB/s; {found['pinned_bytes'] / mb:.0f} MB pinned, another program takes "
          f"{found['taken_bytes'] / mb:.0f} MB: least pinned {found['least_pinned_bytes'] / mb:.0f} MB, at the end "
          f"{found['pinned_at_end_bytes'] / mb:.0f} MB")
    print(f"seconds a token: before {found['s_per_token_before']:.3f}, predicted with the least pins "
          f"{found['s_per_token_predicted']:.3f}, median while it is there {found['s_per_token_during']:.3f}, at the end "
          f"{found['s_per_token_at_end']:.3f}")
    checks = [
        (f"no OOM kill: {found['oom_kills']}", found["oom_kills"] == 0),
        (f"longest token {found['longest_token_s']:.3f} s, allowed {found['allowed_token_s']:.3f} s",
         found["longest_token_s"] <= found["allowed_token_s"]),
        (f"back to {_BACK_FACTOR} x after {found['back_after_s']} s, allowed {_BACK_S:.0f} s",
         found["back_after_s"] is not None and found["back_after_s"] <= _BACK_S),
        (f"{found['tokens']} tokens as without it: {found['exact']}", found["exact"]),
    ]
    for text, good in checks:
        print(f"{text}: {yes(good)}")
    print(f"the other program touches its memory in {1e3 * found['other_touch_s']:.1f} ms, alone "
          f"{1e3 * found['other_touch_alone_s']:.1f} ms: {100 * found['other_slowdown']:+.1f} %; MemAvailable fell by "
          f"{found['available_drop_bytes'] / mb:.0f} MB of the {found['taken_bytes'] / mb:.0f} MB it took")
    return all(good for _, good in checks)


def main():
    options = parse()
    end_on_signals()
    line = record.start("pressure", record.command_line(["pressure", *sys.argv[1:]], [record.ROOT]))
    scenario = parse_scenario({"device": [{"name": "d1", "role": "head", "disk_mb_s": options.disk}]}, "pressure")
    try:
        with Home(scenario) as home:
            if home.no_limits:
                raise RuntimeError(f"without limits there is nothing to measure here: {home.no_limits}")
            model = "synth.gguf"
            make_1b(home.head.file(model), options.layers)
            weights = weight_bytes(home.head.file(model))
            home.head.limit_memory(int(weights * options.memory / 100))
            found = measure(home, model, weights, options)
    except (ScenarioError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"pressure: {error}", file=sys.stderr)
        return 1
    good = print_table(found)
    if not options.no_record:
        record.append(options.results, {**line, **found})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
