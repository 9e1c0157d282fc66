"""Control groups, version 1, of the devices of a home: limits, and what was used.

Every group lies at <controller>/hearth-home/<run>/<device>, so that all groups of a run can be found by its name.
Version 1 because only its memory group can be had beside the blkio throttle that limits buffered and direct reads
alike on the kernels this was made for.
"""

import contextlib
import ctypes
import dataclasses
import os
import signal
import time

CONTROLLERS = ("memory", "blkio", "cpu", "cpuacct", "freezer")
TOP = "hearth-home"

# Of quotas of a core and more; parts of one are part_of_core's. Short: with the kernel's 100 ms a device would compute at full
# speed and then stand still for longer than a token takes.
CPU_PERIOD_US = 10_000

# blkio counts bytes only where a throttle is set: this one never binds.
UNLIMITED_BYTES_PER_S = 1 << 40

# How long killed processes may take to leave their groups.
_PATIENCE_S = 20


@dataclasses.dataclass(frozen=True)
class Use:
    """What the processes of a device used. All but the peak are sums since the groups were made."""

    read_bytes: int = 0
    written_bytes: int = 0
    peak_memory_bytes: int = 0  # page cache included
    memory_failures: int = 0  # times the limit was hit; the kernel then takes pages back
    oom_kills: int = 0
    major_faults: int = 0
    cpu_s: float = 0.0

    def since(self, before):
        """The difference; the peak is this one's."""
        values = {field.name: getattr(self, field.name) - getattr(before, field.name)
                  for field in dataclasses.fields(self)}
        values["peak_memory_bytes"] = self.peak_memory_bytes
        return Use(**values)


def mount_points(mountinfo):
    """{controller: path} from the text of /proc/self/mountinfo."""
    found = {}
    for line in mountinfo.splitlines():
        fields = line.split()
        if "-" not in fields:
            continue
        kind, _, options = fields[fields.index("-") + 1:][:3]
        if kind != "cgroup":
            continue
        for option in options.split(","):
            if option in CONTROLLERS:
                found.setdefault(option, fields[4].replace("\\040", " "))
    return found


def find_or_mount(place):
    """{controller: path}; those that are not mounted yet get mounted below `place`. Raises OSError."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        found = mount_points(file.read())
    libc = ctypes.CDLL(None, use_errno=True)
    for controller in CONTROLLERS:
        if controller in found:
            continue
        path = os.path.join(place, controller)
        os.makedirs(path, exist_ok=True)
        if libc.mount(b"cgroup", path.encode(), b"cgroup", 0, controller.encode()) != 0:
            code = ctypes.get_errno()
            os.rmdir(path)
            raise OSError(code, f"cannot mount the version 1 controller {controller} (is it in use by version 2, or "
                                f"not built into this kernel?): {os.strerror(code)}")
        found[controller] = path
    return found


def _read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


def _write(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(str(value))


def _fields(text):
    """{"name": number} from lines of that form."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def disk_bytes(text, disk, what):
    """The number of "8:0 Read 4096" in a blkio file, 0 where there is none."""
    for line in text.splitlines():
        if line.startswith(f"{disk} {what} "):
            return int(line.split()[2])
    return 0


class Groups:
    """The groups of one device. `disk`: MAJOR:MINOR of the disk its folder is on."""

    def __init__(self, mounts, run, device, disk):
        self._paths = {controller: os.path.join(mount, TOP, run, device) for controller, mount in mounts.items()}
        self._disk = disk
        for path in dict.fromkeys(self._paths.values()):
            os.makedirs(path, exist_ok=True)
        _write(self._file("memory", "memory.swappiness"), 0)  # a device without swap
        self.limit_disk(None)

    def _file(self, controller, name):
        return os.path.join(self._paths[controller], name)

    def process_files(self):
        """Writing 0 to each of these moves the writer into the groups."""
        return [os.path.join(path, "cgroup.procs") for path in dict.fromkeys(self._paths.values())]

    def limit_memory(self, n_bytes):
        _write(self._file("memory", "memory.limit_in_bytes"), -1 if n_bytes is None else n_bytes)

    def limit_disk(self, bytes_per_s):
        _write(self._file("blkio", "blkio.throttle.read_bps_device"),
               f"{self._disk} {UNLIMITED_BYTES_PER_S if bytes_per_s is None else bytes_per_s}")

    def limit_cores(self, cores):
        """A quota of a core or more. None: no limit."""
        _write(self._file("cpu", "cpu.cfs_period_us"), CPU_PERIOD_US)
        _write(self._file("cpu", "cpu.cfs_quota_us"), -1 if cores is None else int(cores * CPU_PERIOD_US))

    def freezer_file(self):
        return self._file("freezer", "freezer.state")

    def forget_cache(self):
        """Gives back every page that can be, and starts the peak anew."""
        _write(self._file("memory", "memory.force_empty"), 0)
        _write(self._file("memory", "memory.max_usage_in_bytes"), 0)

    def sample(self):
        """(bytes read, major faults, anonymous bytes, page cache bytes): what is cheap enough to be read often."""
        memory = _fields(_read(self._file("memory", "memory.stat")))
        return (disk_bytes(_read(self._file("blkio", "blkio.throttle.io_service_bytes")), self._disk, "Read"),
                memory.get("pgmajfault", 0), memory.get("rss", 0), memory.get("cache", 0))

    def cpu_s(self):
        return int(_read(self._file("cpuacct", "cpuacct.usage"))) / 1e9

    def use(self):
        service = _read(self._file("blkio", "blkio.throttle.io_service_bytes"))
        return Use(read_bytes=disk_bytes(service, self._disk, "Read"),
                   written_bytes=disk_bytes(service, self._disk, "Write"),
                   peak_memory_bytes=int(_read(self._file("memory", "memory.max_usage_in_bytes"))),
                   memory_failures=int(_read(self._file("memory", "memory.failcnt"))),
                   oom_kills=_fields(_read(self._file("memory", "memory.oom_control"))).get("oom_kill", 0),
                   major_faults=_fields(_read(self._file("memory", "memory.stat"))).get("pgmajfault", 0),
                   cpu_s=self.cpu_s())


def _processes_in(folder):
    """Ids of the processes in this group and those below it."""
    found = []
    for path, _, files in os.walk(folder):
        if "cgroup.procs" in files:
            found += [int(line) for line in _read(os.path.join(path, "cgroup.procs")).split()]
    return [process for process in found if process > 0]  # 0: lives in another process namespace


def _thaw(mounts, run):
    """Frozen processes cannot end."""
    for path, _, files in os.walk(os.path.join(mounts["freezer"], TOP, run)):
        if "freezer.state" in files:
            with contextlib.suppress(FileNotFoundError):
                _write(os.path.join(path, "freezer.state"), "THAWED")


def end_processes(mounts, run):
    """Kills every process in the groups of a run; does not wait."""
    _thaw(mounts, run)
    for mount in dict.fromkeys(mounts.values()):
        for process in _processes_in(os.path.join(mount, TOP, run)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def remove_run(mounts, run):
    """Ends every process in the groups of a run and removes the groups. Raises OSError when they do not go."""
    for mount in dict.fromkeys(mounts.values()):
        top = os.path.join(mount, TOP)
        folder = os.path.join(top, run)
        deadline = time.monotonic() + _PATIENCE_S
        while os.path.isdir(folder):
            end_processes(mounts, run)
            try:
                for path, _, _ in os.walk(folder, topdown=False):
                    os.rmdir(path)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # polls the kernel, which tells nobody when a group is empty; the deadline decides
        with contextlib.suppress(OSError):
            os.rmdir(top)  # fails where another run has its groups, or there never were any
