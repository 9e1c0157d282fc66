"""One line of bench/results/*.jsonl: what was measured, where, on which commit, with which command."""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
RESULTS = os.path.join(ROOT, "bench", "results")


def commit():
    """Hash of the checkout, "-dirty" where tracked files differ from it; "unknown" without git."""
    def git(*arguments):
        try:
            return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None
    revision = git("rev-parse", "HEAD")
    if not revision:
        return "unknown"
    return revision + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")


def _first_value(path, key):
    try:
        with open(path, encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(key)), None)
    except OSError:
        return None


# What decides how fast weights are computed with; a virtual machine's processor has hardly another name.
_VECTOR_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


def _vector_sets():
    flags = (_first_value("/proc/cpuinfo", "flags") or _first_value("/proc/cpuinfo", "Features") or "").split()
    return [name for name in _VECTOR_SETS if name in flags] or None


def machine():
    known = {"cpu": _first_value("/proc/cpuinfo", "model name"), "vector_sets": _vector_sets(), "cores": os.cpu_count(),
             "memory": _first_value("/proc/meminfo", "MemTotal"), "kernel": platform.release()}
    return {key: value for key, value in known.items() if value is not None}


def command_line(command, hidden=()):
    """As a shell would take it. Where programs and the folders in `hidden` are says nothing about a measurement."""
    words = [os.path.basename(command[0]), *command[1:]]
    for folder in hidden:
        words = [word.replace(folder.rstrip("/") + "/", "") for word in words]
    return shlex.join(words)


def file_hash(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def start(bench, command):
    """What all records of a program begin with."""
    return {"bench": bench, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit(),
            "machine": machine(), "command": command,
            "openmp": {key: value for key, value in os.environ.items() if key.startswith(("OMP_", "GOMP_"))}}


def of_run(run, hidden=()):
    """A Run of the home as a table."""
    return {"command": command_line(run.command, hidden), "exit_code": run.code, "capped": run.capped,
            "seconds": run.seconds, **vars(run.use),
            "stolen_share": run.stolen_share, "other_share": run.other_share}


def append(file, line):
    os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
    with open(file, "a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")
