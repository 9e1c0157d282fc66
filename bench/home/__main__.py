"""Runs a command on every device of an emulated home, or a ring of hearth over them.

    ./dev bench home SCENARIO -m MODEL            hearth bench on the head, workers on the other devices
    ./dev bench home SCENARIO [-m MODEL] -- COMMAND ARGS...   the command on all devices at the same time

In COMMAND, {name}, {address}, {folder}, {model} (the device's own copy) and {memory} (bytes) stand for the device's.
A line with what each device used is appended to bench/results/home.jsonl. SCENARIO is a file, or a name:
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys

from . import disk, record
from .hearth_ring import HearthRing
from .home import Home
from .scenario import SCENARIOS, ScenarioError, load_scenario


def program(name):
    return os.path.join(os.environ.get("HEARTH_BUILD", os.path.join(record.ROOT, "build", "release")), "bin", name)


def make_1b(path, layers):
    """A Q4_K_M model of the 1b shape with random weights and so many layers."""
    subprocess.run([program("hearth-synth"), "--shape", "1b", "--layers", str(layers), "--type", "Q4_K_M", "-o", path],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def weight_bytes(model):
    """Bytes of the weights a token needs, counted by ggml."""
    done = subprocess.run([program("llama-decode"), "-m", model, "--describe"], capture_output=True, text=True)
    if done.returncode != 0:
        raise ScenarioError(done.stderr.strip())
    return json.loads(done.stdout)["weight_bytes"]


def end_on_signals():
    """A terminated program cleans up like an interrupted one."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def parse():
    known = "\n".join(f"    {name.removesuffix('.toml'):<16}{load_scenario(name.removesuffix('.toml')).description}"
                      for name in sorted(os.listdir(SCENARIOS)))
    arguments, command = sys.argv[1:], None
    if "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1:]
    parser = argparse.ArgumentParser(prog="home", description=__doc__ + known,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario")
    parser.add_argument("-m", "--model", help="GGUF file; each device gets a copy")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds a command may take (default 1800)")
    parser.add_argument("--results", default=os.path.join(record.RESULTS, "home.jsonl"))
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    if command is None and options.model is None:
        parser.error("without a command a model is needed (-m)")
    return options, command


def print_runs(runs):
    print(f"{'device':<16}{'exit':>5}{'s':>9}{'read MB':>10}{'peak MB':>9}{'failcnt':>9}{'OOM':>5}{'faults':>8}{'cpu s':>8}")
    for name, run in runs.items():
        use = run.use
        print(f"{name:<16}{run.code:>5}{run.seconds:>9.2f}{use.read_bytes / 1e6:>10.1f}{use.peak_memory_bytes / 1e6:>9.1f}"
              f"{use.memory_failures:>9}{use.oom_kills:>5}{use.major_faults:>8}{use.cpu_s:>8.2f}")
    worst = max(run.taken_share for run in runs.values())
    print(f"taken from the home by the hypervisor or other programs: {100 * worst:.1f} % of the processors")


def run_command(home, command, options):
    """The command on all devices at once: {device: Run}."""
    running = {}
    for device in home:
        values = {"name": device.name, "address": device.address, "folder": device.folder,
                  "model": device.file(options.model) if options.model else "", "memory": device.memory_limit or 0}
        words = command
        for key, value in values.items():
            words = [word.replace("{" + key + "}", str(value)) for word in words]
        running[device.name] = device.start(words)
    runs = {name: one.wait(options.timeout) for name, one in running.items()}
    for name, run in runs.items():
        for line in [text for _, text in run.lines] + run.errors.splitlines():
            print(f"{name}: {line}")
    return runs, None


def run_ring(home, options):
    with HearthRing(home, program("hearth"), options.model) as ring:
        run, result = ring.bench(timeout_s=options.timeout)
        runs = {home.head.name: run, **ring.stop()}
    print(run.errors)
    if result is not None:
        print(f"{result['tpot_s']:.3f} s a token, {result['ttft_s']:.3f} s to the first")
    return runs, result


def measure(options, command):
    scenario = load_scenario(options.scenario)
    needs_weights = any(device.memory_share for device in scenario.devices)
    weights = weight_bytes(options.model) if options.model and needs_weights else None
    with Home(scenario, weight_bytes=weights) as home:
        if options.model:
            home.place(options.model)
        disks = []
        if not home.no_limits:
            big = options.model and os.path.getsize(options.model) >= disk.LEAST_FILE
            rates = home.calibrate_disks(options.model if big else None)
            for device, rate in zip(home, rates):
                limit = device.disk_limit
                disks.append({"device": device.name, "calibrated_bytes_per_s": rate, "limit_bytes_per_s": limit})
                print(f"{device.name}: the disk gives {rate / 1e6:.0f} MB/s while all read; limit "
                      f"{f'{limit / 1e6:.0f} MB/s' if limit else 'none'}; memory "
                      f"{f'{device.memory_limit / 1e6:.0f} MB' if device.memory_limit else 'no limit'}")
        home.forget_caches()
        runs, result = run_command(home, command, options) if command else run_ring(home, options)
        print_runs(runs)
        hidden = [*(device.folder for device in home), home.folder]
        line = {**record.start("home", record.command_line(["home", scenario.name, *(command or [])], hidden)),
                "scenario": {"name": scenario.name, "devices": [dataclasses.asdict(device) for device in scenario.devices]},
                "no_limits": home.no_limits, "disks": disks, "read_ahead_kib": None if home.no_limits else home.read_ahead(),
                "weight_bytes": weights, "result": result,
                "devices": {name: record.of_run(run, hidden) for name, run in runs.items()}}
        if result is not None:
            result["model"] = os.path.basename(options.model)
        if not options.no_record:
            record.append(options.results, line)
    return 0 if all(run.code == 0 for name, run in runs.items() if command or name == scenario.head().name) else 1


def main():
    options, command = parse()
    end_on_signals()
    try:
        return measure(options, command)
    except (ScenarioError, OSError, RuntimeError) as error:
        print(f"home: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
