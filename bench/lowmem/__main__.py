"""The program: see the package."""

import argparse
import contextlib
import dataclasses
import itertools
import os
import shutil
import statistics
import subprocess
import sys

from home import Home, ScenarioError, disk, memory, record, registry
from home.__main__ import end_on_signals, program, weight_bytes
from home.home import default_folder
from home.scenario import parse_scenario

from . import report
from .cases import QUICK, SHAPES, TYPE, all_cases, chosen
from .programs import all_programs

# What a model takes on disk, roughly, with a pack beside each copy; refused before anything is written there.
_ROOM = {"1b": 3_000_000_000, "8b": 10_000_000_000}
# What hearth leaves free on every disk.
_KEPT_FREE = 1 << 30
# What programs, and the devices' own memory, take beside a disk in memory, at least.
_BESIDES = 4 << 30


def parse():
    parser = argparse.ArgumentParser(prog="lowmem", description="What a token costs when the weights do not fit memory.")
    parser.add_argument("--quick", action="store_true", help="only the smallest useful case, in less than 10 minutes")
    parser.add_argument("--only", action="append", metavar="CASE",
                        help="cases by name, with * and ?, e.g. '1b:1x500@*'; may be repeated")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--rounds", type=int, help="undisturbed rounds that count (default 3; quick: 2)")
    parser.add_argument("--tokens", type=int, default=4, help="tokens that count in a run (default 4)")
    parser.add_argument("--cap", type=int, default=60, help="seconds after which a token of libllama is given up")
    parser.add_argument("--max-taken", type=float, default=5,
                        help="a round is repeated when more than this percentage of the processors was taken by the "
                             "hypervisor or other programs (default 5)")
    parser.add_argument("--memory-disk", action="store_true",
                        help="the devices' files on a disk in memory, for rates that this machine's disk does not have; "
                             "it takes processor time itself, give it a larger --max-taken")
    parser.add_argument("--programs", default="", help="only programs whose name contains one of these, e.g. hearth,mmap")
    parser.add_argument("--results", default=os.path.join(record.RESULTS, "lowmem.jsonl"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 3)
    return options


def make_model(home, shape):
    """Generates the model straight into the first device, copies it to the others; (name, hash)."""
    first, *others = home.devices
    name = f"synth-{shape}-{TYPE.lower()}.gguf"
    subprocess.run([program("hearth-synth"), *SHAPES[shape], "--type", TYPE, "-o", first.file(name)], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for device in others:
        device.place(first.file(name))
    return name, record.file_hash(first.file(name))


def computes(one, n_devices):
    """Whether the program's time, without limits, is that of computing."""
    return one.name == "hearth" or (one.name == "libllama defaults" and n_devices == 1)


def computing(home, model, programs, options):
    """Seconds a token takes where everything fits and the disk is not limited: the least of any program."""
    for device in home:
        device.limit_memory(None)
        device.limit_disk(None)
    found = []
    for one in programs:
        if computes(one, len(home.devices)):
            measured = one.run(home, model, options.tokens, options.cap)
            if measured.status == "ok":
                found.append((statistics.median(measured.s_per_token), one.name))
            else:
                print(f"without limits {one.name}: {measured.status} {measured.message}")
    if not found:
        raise RuntimeError("no program ran even without limits")
    return min(found)


def rounds_of(home, model, programs, options):
    """([round: {program: Measured}], were all undisturbed). Programs take turns; disturbed rounds are repeated."""
    kept, disturbed = [], []
    while len(kept) < options.rounds and len(kept) + len(disturbed) < 2 * options.rounds:
        one = {}
        for each in programs:
            one[each.name] = each.run(home, model, options.tokens, options.cap)
        worst = max(measured.taken_share for measured in one.values())
        (kept if 100 * worst <= options.max_taken else disturbed).append(one)
    return (kept, True) if kept else (disturbed, False)


def per_round(rounds, name):
    return [statistics.median(one[name].s_per_token) if one[name].status == "ok" else None for one in rounds]


def mean_of(rounds, name, field):
    values = [value for one in rounds if (value := getattr(one[name], field)) is not None]
    return statistics.mean(values) if values else None


def lines_of(case, rounds, undisturbed, facts, common):
    """A line of the results for each program."""
    hearth = per_round(rounds, "hearth") if "hearth" in rounds[0] else []
    for name in rounds[0]:
        all_of_it = [one[name] for one in rounds]
        # The worst outcome is the one that is told.
        worst = next((one for one in all_of_it if one.status != "ok"), all_of_it[0])
        seconds = [value for one in all_of_it for value in one.s_per_token]
        residency = next((one.residency for one in all_of_it if one.residency), {})
        s_per_token = statistics.median(seconds) if seconds else None
        # hearth's numbers are those of its head; devices are equal, and their fixed cost is counted alike.
        limit = report.limit_s(facts["weight_bytes"] / case.n_devices, facts["memory_bytes"] / case.n_devices,
                               facts["disk_bytes_per_s"], facts["compute_s"], residency.get("fixed_bytes", 0),
                               residency.get("slot_bytes", 0))
        yield {**common, "case": {"name": case.name, **dataclasses.asdict(case)}, **facts, "program": name,
               "status": worst.status, "message": worst.message, "rounds": len(rounds), "undisturbed": undisturbed,
               "s_per_token": s_per_token, "s_per_token_all": seconds,
               "read_bytes_per_token": mean_of(rounds, name, "read_bytes_per_token"),
               "major_faults_per_token": mean_of(rounds, name, "major_faults_per_token"),
               "memory_failures": sum(one.memory_failures for one in all_of_it),
               "oom_kills": sum(one.oom_kills for one in all_of_it),
               "peak_memory_bytes": max(one.peak_memory_bytes for one in all_of_it),
               "anonymous_bytes": mean_of(rounds, name, "anonymous_bytes"),
               **{key: residency.get(key) for key in ("pinned_bytes", "slot_bytes", "fixed_bytes",
                                                      "streamed_bytes_per_token")},
               "residency": residency, "limit_s": limit, "share_of_limit": limit / s_per_token if s_per_token else None,
               "ratio_to_hearth": None if name == "hearth" else report.ratio(hearth, per_round(rounds, name))}


def _memory_disk(n_bytes):
    """With room for files of that size, and the read-ahead of the disk that is used otherwise."""
    registry.remove_leftovers()  # they may hold memory
    size, available = n_bytes * 5 // 4 + _KEPT_FREE, memory.available()
    if size + _BESIDES > available:
        raise RuntimeError(f"a disk in memory of {size / 1e9:.0f} GB, with {_BESIDES / 1e9:.0f} GB for the devices, does "
                           f"not fit: {available / 1e9:.0f} GB of memory are available; choose fewer devices or the "
                           "smaller shape")
    folder = default_folder()
    os.makedirs(folder, exist_ok=True)
    own = disk.disk_of(folder)
    if own is None:
        raise RuntimeError(f"{folder} is on no disk whose read-ahead could be taken")
    with open(disk.read_ahead_setting(own), encoding="ascii") as setting:
        return disk.memory_disk(folder, size, int(setting.read()))


def measure_cases(cases, programs, options, common):
    """All cases of one shape and number of devices, in one home."""
    shape, n_devices = cases[0].shape, cases[0].n_devices
    scenario = parse_scenario({"device": [{"name": f"d{i + 1}", "role": "worker" if i else "head",
                                           "disk_mb_s": max(case.disk_mb_s for case in cases)}
                                          for i in range(n_devices)]}, "lowmem")
    with contextlib.ExitStack() as stack:
        folder = None
        if options.memory_disk:
            folder = stack.enter_context(_memory_disk(_ROOM[shape] * n_devices))
        home = stack.enter_context(Home(scenario, folder=folder))
        if home.no_limits:
            raise RuntimeError(f"without limits there is nothing to measure here: {home.no_limits}")
        free = shutil.disk_usage(home.folder).free
        if free < _ROOM[shape] * n_devices:
            raise RuntimeError(f"{n_devices} devices with the {shape} model and its packs need "
                               f"{_ROOM[shape] * n_devices / 1e9:.0f} GB, {free / 1e9:.0f} GB are free")
        model, model_hash = make_model(home, shape)
        weights = weight_bytes(home.head.file(model))
        rates = home.calibrate_disks(model)
        print(f"{shape}, {n_devices} devices: {weights / 1e6:.0f} MB of weights a token; the disk gives "
              f"{', '.join(f'{rate / 1e6:.0f}' for rate in rates)} MB/s while all read; read-ahead {home.read_ahead()} KiB")
        for one in programs:
            if hasattr(one, "prepare"):
                for device in home:
                    device.limit_disk(None)
                one.prepare(home, model)
        compute_s, fastest = computing(home, model, programs, options)
        print(f"computing alone: {compute_s:.3f} s a token ({fastest})")
        for case in cases:
            total = int(weights * case.memory_percent / 100)
            for device in home:
                device.limit_memory(total // n_devices)
            home.limit_disks(rates, n_devices * [case.disk_mb_s * 1e6])
            # The same reader, in the same groups, just before.
            measured = min(device.disk_rate(device.file(model)) for device in home)
            print(f"{case.name}: {total / 1e6:.0f} MB of memory in all; disk asked for {case.disk_mb_s} MB/s, limited to "
                  f"{min(device.disk_limit for device in home) / 1e6:.0f}, measured {measured / 1e6:.0f}")
            facts = {"weight_bytes": weights, "memory_bytes": total, "disk_bytes_per_s": measured,
                     "disk_limit_bytes_per_s": [device.disk_limit for device in home],
                     "calibrated_bytes_per_s": rates, "memory_disk": options.memory_disk, "compute_s": compute_s,
                     "read_ahead_kib": home.read_ahead(),
                     "model": {"file": model, "bytes": os.path.getsize(home.head.file(model)), "blake2b": model_hash}}
            rounds, undisturbed = rounds_of(home, model, [one for one in programs if one.fits(case)], options)
            for line in lines_of(case, rounds, undisturbed, facts, common):
                print(report.row(line), flush=True)
                if not options.no_record:
                    record.append(options.results, line)


def main():
    options = parse()
    cases = list(QUICK) if options.quick else chosen(options.only or ["*"])
    if options.list:
        print("\n".join(case.name for case in all_cases()))
        return 0
    if not cases:
        print("lowmem: no case has such a name; --list names them", file=sys.stderr)
        return 2
    end_on_signals()
    wanted = [part for part in options.programs.split(",") if part]
    known = all_programs(os.path.dirname(program("hearth")))
    programs = [one for one in known if not wanted or any(part in one.name for part in wanted)]
    if not programs:
        print(f"lowmem: no program has such a name; there are {'; '.join(one.name for one in known)}", file=sys.stderr)
        return 2
    if not all(any(computes(one, case.n_devices) for one in programs) for case in cases):
        print("lowmem: --programs leaves none that can say what computing alone takes: hearth, or, on one device, "
              "'libllama defaults'", file=sys.stderr)
        return 2
    common = record.start("lowmem", record.command_line(["lowmem", *sys.argv[1:]], [record.ROOT]))
    print(f"physical limit: the larger of computing and (weights - (memory - fixed - slots)) / disk\n{report.HEADER}")
    try:
        if options.memory_disk:
            disk.own_mounts()
        for _, group in itertools.groupby(cases, key=lambda case: (case.shape, case.n_devices)):
            measure_cases(list(group), programs, options, common)
    except (ScenarioError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"lowmem: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
