"""What a run has set up and must undo, kept where the next run finds it.

Each run has a folder <registry>/<run> with a file `lock`, locked as long as the program lives, and `undo.json`. A run
is left over when its lock can be taken: no process id is compared, so none can be mistaken for another. What is to be
undone is written down before it is done, and ended runs and leftovers are undone by the same function.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sys
import tempfile

from . import cgroup


def registry_folder():
    """One per machine for root, whatever checkout it works in; one per user otherwise."""
    if os.geteuid() == 0 and os.access("/run", os.W_OK):
        return "/run/hearth-home"
    return os.path.join(tempfile.gettempdir(), f"hearth-home-{os.getuid()}")


def controllers(folder=None):
    """{controller: where it is mounted}; mounts what is missing. Raises OSError."""
    return cgroup.find_or_mount(os.path.join(folder or registry_folder(), "controllers"))


@contextlib.contextmanager
def _locked(folder):
    """Nobody else makes or removes runs."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.stat(folder).st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _undo(folder, run):
    with contextlib.suppress(FileNotFoundError):
        with open(os.path.join(folder, run, "undo.json"), encoding="utf-8") as file:
            undo = json.load(file)
        if undo["groups"]:
            cgroup.remove_run(controllers(folder), run)
        for path, value in undo["settings"].items():
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
        for path in undo["folders"]:
            if os.path.isdir(path):
                shutil.rmtree(path)
    shutil.rmtree(os.path.join(folder, run))


def remove_leftovers():
    """Undoes every run whose program is gone, says so, and returns their names."""
    folder = registry_folder()
    removed = []
    with _locked(folder):
        for run in sorted(os.listdir(folder)):
            path = os.path.join(folder, run, "lock")
            if not os.path.exists(path):
                continue
            with open(path, "w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # it lives
                try:
                    _undo(folder, run)
                    removed.append(run)
                except (OSError, ValueError, KeyError) as error:
                    print(f"home: the leftover run {run} cannot be removed: {error}", file=sys.stderr)
    if removed:
        print(f"home: removed what was left of {', '.join(removed)}", file=sys.stderr)
    return removed


class RunEntry:
    """This run. Everything to undo is announced here first."""

    def __init__(self):
        self._folder = registry_folder()
        self.name = f"run-{secrets.token_hex(6)}"
        self._undo = {"groups": False, "settings": {}, "folders": []}
        self._closed = False
        with _locked(self._folder):
            os.mkdir(os.path.join(self._folder, self.name))
            self._lock = open(os.path.join(self._folder, self.name, "lock"), "w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._save()

    def _save(self):
        path = os.path.join(self._folder, self.name, "undo.json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(self._undo, file)
        os.replace(path + ".new", path)

    def will_make_groups(self):
        self._undo["groups"] = True
        self._save()

    def will_make_folder(self, path):
        self._undo["folders"].append(path)
        self._save()

    def will_change(self, path):
        """The file at `path`, a setting of the kernel, gets its present value again. The first call counts."""
        if path not in self._undo["settings"]:
            with open(path, encoding="ascii") as file:
                self._undo["settings"][path] = file.read().strip()
            self._save()

    def close(self):
        if self._closed:
            return
        with _locked(self._folder):
            _undo(self._folder, self.name)
        self._closed = True
        self._lock.close()
