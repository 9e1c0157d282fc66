"""The program: see the package."""

import argparse
import glob
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys

from home import Home, ScenarioError, record
from home.__main__ import end_on_signals, program, weight_bytes
from home.hearth_ring import HearthRing, threads_of
from home.scenario import parse_scenario

from .homes import ACCURACY, BASELINES

_PATIENCE_S = 600
_CONTEXT = 512
_MOST_ERROR, _MOST_MEDIAN_ERROR, _MOST_UNREPEATABLE = 0.25, 0.15, 0.10
_NOT_SLOWER, _MUCH_FASTER = 1.03, 1.5
# Student's t for a 95 % interval, by degrees of freedom.
_T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def parse():
    parser = argparse.ArgumentParser(prog="plan", description="Whether plans do what they say, and whether others would be better.")
    parser.add_argument("what", choices=["accuracy", "baselines"])
    parser.add_argument("--only", action="append", help="homes by name; may be repeated")
    parser.add_argument("--pairs", type=int, default=5, choices=range(2, 11), metavar="2..10", help="(profile, run) pairs, or rounds of all splits (default 5)")
    parser.add_argument("--tokens", type=int, default=6, help="that count in a run (default 6)")
    parser.add_argument("--shape", default="1b", help="of the model, as hearth-synth takes it (default 1b)")
    parser.add_argument("--layers", type=int, default=20, help="of that shape (default 20: 1 GB of weights)")
    parser.add_argument("--results", default=os.path.join(record.RESULTS, "plan.jsonl"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    return parser.parse_args()


def forget_profiles(home):
    """What devices measured of themselves, so that they do it again."""
    for device in home:
        for folder in glob.glob(os.path.join(device.folder, "cache", "hearth", "packs", "profiles")):
            shutil.rmtree(folder)


def measured_of(log):
    """What a device says that it measured of itself: GB/s of weights for a token, MB/s of its disk."""
    return [float(found[1]) if (found := re.search(pattern, log)) else None
            for pattern in (r"passes ([0-9.]+) GB/s", r"disk reads ([0-9.]+) MB/s")]


def run(home, model, n_tokens, extra=()):
    """hearth's own report of one ring: its prediction, the seconds a token took; and what devices measured of themselves."""
    home.forget_caches()
    with HearthRing(home, program("hearth"), model) as ring:
        one, result = ring.bench(n_prompt=1, n_generate=n_tokens + 1, n_ctx=_CONTEXT, extra=extra, timeout_s=_PATIENCE_S)
        workers = list(ring.stop().values()) if ring.workers else []
    if result is None:
        raise RuntimeError(f"exit code {one.code}: {one.errors.strip()}")
    if any(each.use is not None and each.use.oom_kills for each in [one, *workers]):
        raise RuntimeError("a process was killed for memory")
    return result, {"measured": [measured_of(each.errors) for each in [one, *workers]], "taken_share": round(one.taken_share, 4)}


def make_home(devices, name):
    tables = [dict(each) for each in devices]
    tables[0]["role"] = "head"
    return parse_scenario({"device": tables}, name)


def make_model(options, path):
    subprocess.run([program("hearth-synth"), "--shape", options.shape, "--layers", str(options.layers), "--type", "Q4_K_M", "-o", path],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def home_of(options, model, name, table):
    """An emulated home with the model in it (one file for all) and limited disks."""
    home = Home(make_home(table[name][1], name), weight_bytes=weight_bytes(model))
    try:
        if home.no_limits:
            raise RuntimeError(f"without limits there is nothing to measure here: {home.no_limits}")
        for device in home:
            os.link(model, device.file(model))
        home.calibrate_disks(model)
        for device, asked in zip(home, table[name][1]):
            if device.disk_limit < 0.8 * asked["disk_mb_s"] * 1e6:
                print(f"{name}: {device.name}'s disk is limited to {device.disk_limit / 1e6:.0f} MB/s instead of "
                      f"{asked['disk_mb_s']}: the machine's gives no more now")
    except BaseException:
        home.close()
        raise
    return home


def accuracy(options, model, name):
    """(measure anew, run) pairs on one home."""
    devices = ACCURACY[name][1]
    with home_of(options, model, name, ACCURACY) as home:
        run(home, os.path.basename(model), 1)  # makes packs, where the plan will have them about
        pairs = []
        for _ in range(options.pairs):
            forget_profiles(home)
            result, found = run(home, os.path.basename(model), options.tokens)
            if not result["predicted_tpot_s"]:
                raise RuntimeError("nothing is predicted: a device was not measured")
            pairs.append({"predicted_s": result["predicted_tpot_s"], "measured_s": result["tpot_s"],
                          "rounds": result["rounds"], "layers": result["layers"], **found})
    # How well runs of one plan repeat, of the plan that was made most often.
    by_plan = {}
    for pair in pairs:
        by_plan.setdefault((tuple(pair["layers"]), pair["rounds"]), []).append(pair["measured_s"])
    same = max(by_plan.values(), key=len)
    row = {"home": name, "what": ACCURACY[name][0], "pairs": pairs, "same_plan": len(same),
           "repeats": (max(same) - min(same)) / 2 / statistics.median(same) if len(same) > 1 else None}
    found = errors_of(row)
    repeats = "-" if row["repeats"] is None else f"{100 * row['repeats']:.1f}%"
    print(f"{name:<14}{len(devices):>8}{pairs[0]['rounds']:>7}{statistics.median(pair['predicted_s'] for pair in pairs):>13.3f}"
          f"{statistics.median(pair['measured_s'] for pair in pairs):>12.3f}{' '.join(f'{100 * error:+.0f}' for error in found):>32}"
          f"{100 * statistics.median(map(abs, found)):>7.1f}%{repeats:>12}", flush=True)
    return row


def errors_of(row):
    return [pair["predicted_s"] / pair["measured_s"] - 1 for pair in row["pairs"]]


def check_accuracy(rows):
    resolved = [row for row in rows if row["repeats"] is not None and row["repeats"] <= _MOST_UNREPEATABLE]
    for row in rows:
        if row not in resolved:
            print(f"{row['home']}: unresolved, its runs do not repeat within {100 * _MOST_UNREPEATABLE:.0f} %")
    every = {row["home"]: [abs(error) for error in errors_of(row)] for row in resolved}
    if not every:
        return [("no home is resolved", False)]
    middle = statistics.median(error for errors in every.values() for error in errors)
    worst = max(every, key=lambda home: max(every[home]))
    return [(f"median error over all pairs {100 * middle:.1f} %, at most {100 * _MOST_MEDIAN_ERROR:.0f} %", middle <= _MOST_MEDIAN_ERROR),
            (f"largest of a pair {100 * max(every[worst]):.1f} % ({worst}), at most {100 * _MOST_ERROR:.0f} %",
             max(every[worst]) <= _MOST_ERROR)]


def shown(model):
    done = subprocess.run([program("hearth"), "show", "--json", model], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def profiles(home, model):
    """What each device measures of itself now; flops from its pass of most tokens."""
    found = []
    for device in home:
        flags = ["--memory", f"{device.memory_limit}B"] if device.memory_limit else []
        done = device.run([program("hearth"), "profile", "-m", device.file(model), "-t", str(threads_of(device)), *flags, "--json"],
                          timeout_s=_PATIENCE_S)
        if done.code != 0:
            raise RuntimeError(f"{device.name}: profile: {done.errors.strip()}")
        found.append(json.loads(done.text())["devices"][0])
    return found


def other_splits(home, model):
    facts = shown(model)
    layer_weights = facts["n_embd"] * (2 * facts["n_head"] + 2 * facts["n_head_kv"]) * facts["head_dim"] + 3 * facts["n_embd"] * facts["n_ff"]
    layer = statistics.fmean(facts["layer_bytes"])
    devices = []
    for device, profile in zip(home, profiles(home, os.path.basename(model))):
        if "cpu" not in profile or "disk" not in profile:
            raise RuntimeError(f"{device.name} could not be measured")
        most, one = profile["cpu"][-1], profile["cpu"][0]
        devices.append({"name": device.name, "flops": most["rate"] / layer * 2 * layer_weights * most["tokens"],
                        "memory_bytes_per_s": one["rate"], "disk_bytes_per_s": profile["disk"], "memory_bytes": device.memory_limit,
                        "buffer_bytes": 64_000_000, "hop_s": device.spec.delay_ms / 1e3 + 0.0005})
    request = {"model": {"n_layer": facts["n_layer"], "layer_bytes": int(layer), "kv_bytes": facts["kv_bytes_per_1024_tokens"] // 2 // facts["n_layer"],
                         "embedding_bytes": facts["embedding_bytes"], "output_bytes": facts["output_bytes"], "n_vocab": facts["n_vocab"],
                         "layer_flop": 2 * layer_weights, "output_flop": 2 * facts["n_vocab"] * facts["n_embd"]}, "devices": devices}
    done = subprocess.run([program("plan-baselines")], input=json.dumps(request), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def interval(logs):
    """Geometric mean and its 95 % interval, of logarithms."""
    mean = statistics.fmean(logs)
    half = _T[len(logs) - 1] * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def baselines(options, model, name):
    """The plan and other splits on one home, in turn."""
    with home_of(options, model, name, BASELINES) as home:
        splits = other_splits(home, model)
        arms = {"ours": ()}
        for split, plan in splits.items():
            if "windows" in plan:
                arms[split] = ("--layer-window", plan["windows"], "--rounds", str(plan["rounds"]))
            else:
                print(f"{name}: {split} has no plan: {plan['error']}")
        times, plans, taken = {arm: [] for arm in arms}, {}, []
        for arm, extra in list(arms.items()):  # makes packs
            try:
                result, _ = run(home, os.path.basename(model), 1, extra)
                plans[arm] = {"layers": result["layers"], "rounds": result["rounds"]}
            except RuntimeError as error:
                print(f"{name}: {arm} does not run: {error}")
                del arms[arm], times[arm]
        for _ in range(options.pairs):
            for arm, extra in arms.items():
                result, found = run(home, os.path.basename(model), options.tokens, extra)
                times[arm].append(result["tpot_s"])
                taken.append(found["taken_share"])
    print(f"{name}: {BASELINES[name][0]}")
    row = {"home": name, "what": BASELINES[name][0], "plans": plans, "s_per_token": times, "taken_share": taken, "ratios": {}}
    for arm in arms:
        line = f"  {arm:<16}{str(plans[arm]['layers']):<20} in {plans[arm]['rounds']:<3}{statistics.median(times[arm]):>9.3f} s"
        if arm != "ours":
            mean, low, high = interval([math.log(a / b) for a, b in zip(times["ours"], times[arm])])
            row["ratios"][arm] = [mean, low, high]
            line += f"   ours / it {mean:.2f} ({low:.2f} to {high:.2f})"
        print(line, flush=True)
    return row


def check_baselines(rows):
    slower = [f"{row['home']} against {arm}" for row in rows for arm, (_, low, _) in row["ratios"].items() if low > _NOT_SLOWER]
    checks = [(f"nowhere significantly slower{': ' + ', '.join(slower) if slower else ''}", not slower)]
    for arm in dict.fromkeys(arm for row in rows for arm in row["ratios"]):
        best = max(1 / row["ratios"][arm][0] for row in rows if arm in row["ratios"])
        checks.append((f"at least {_MUCH_FASTER} times as fast as {arm} somewhere: {best:.2f}", best >= _MUCH_FASTER))
    return checks


def main():
    options = parse()
    end_on_signals()
    homes, measure, check = {"accuracy": (ACCURACY, accuracy, check_accuracy), "baselines": (BASELINES, baselines, check_baselines)}[options.what]
    for name in options.only or []:
        if name not in homes:
            print(f"plan: there is no home {name}; the homes are {', '.join(homes)}", file=sys.stderr)
            return 2
    line = record.start("plan", record.command_line(["plan", *sys.argv[1:]], [record.ROOT]))
    folder = os.path.join(record.ROOT, "build", "home")
    os.makedirs(folder, exist_ok=True)
    model = os.path.join(folder, "plan-model.gguf")
    rows, failed = [], False
    try:
        make_model(options, model)
        if options.what == "accuracy":
            print(f"{'home':<14}{'devices':>8}{'rounds':>7}{'predicted s':>13}{'measured s':>12}{'errors %':>32}{'median':>8}{'repeats +-%':>12}")
        for name in options.only or list(homes):
            try:
                rows.append(measure(options, model, name))
            except (ScenarioError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
                failed = True
                print(f"{name}: not measured: {error}", file=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"plan: {error}", file=sys.stderr)
        return 1
    finally:
        # What was measured is kept, however it ends.
        if rows and not options.no_record:
            record.append(options.results, {**line, "what": options.what, "homes": rows})
        if os.path.exists(model):
            os.remove(model)
    checks = check(rows) if rows else []
    for text, good in checks:
        print(f"{text}: {'holds' if good else 'DOES NOT HOLD'}")
    return 0 if rows and not failed and all(good for _, good in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
