"""Home and Device: see the package."""

import atexit
import glob
import os
import subprocess
import sys

from . import cgroup, disk, memory, network, registry
from .processes import Running
from .scenario import load_scenario

# The share of what the disk gives to all devices at once that their limits may add up to: the rest keeps a limit from
# being missed because the disk itself was slow for a moment.
DISK_SHARE = 0.8

_PART_OF_CORE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "part_of_core.py")


def default_folder():
    """Where devices' private folders are made: on a real disk, ignored by git."""
    return os.environ.get("HEARTH_HOME_FOLDER") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..",
                                                                "build", "home")


def why_no_limits(folder):
    """The reason why devices cannot have limits here; None when they can."""
    if os.geteuid() != 0:
        return "not root: no groups, no namespaces"
    if reason := network.netns.why_not():
        return reason
    if disk.disk_of(folder) is None:
        return f"{folder} is on no disk of its own (tmpfs, overlay or network): its reads cannot be limited"
    try:
        registry.controllers()
    except OSError as error:
        return f"no version 1 control groups: {error}"
    return None


class Device:
    """One device of a home. `groups` and `namespace` are None where there are no limits."""

    def __init__(self, home, spec, folder, memory_limit):
        self.home, self.spec, self.name, self.folder = home, spec, spec.name, folder
        self.memory_limit = memory_limit  # bytes, None: all there is
        self.disk_limit = None  # bytes per second, None: none; set by Home.calibrate_disks or limit_disk
        self.groups = self.namespace = None
        self.address = "127.0.0.1"
        self._running = []
        os.makedirs(os.path.join(folder, "tmp"))

    def file(self, path):
        """Where this device has its own copy of a file that was placed."""
        return os.path.join(self.folder, os.path.basename(path))

    def place(self, path):
        """Copies a file into the private folder, whatever its limits."""
        disk.copy_file(path, self.file(path))
        return self.file(path)

    def limit_memory(self, n_bytes):
        self.memory_limit = n_bytes
        if self.groups is not None:
            self.groups.limit_memory(n_bytes)

    def limit_disk(self, bytes_per_s):
        """What hearth measured of the disk before is forgotten: it is another one now."""
        for measured in glob.glob(os.path.join(self.folder, "cache", "hearth", "packs", "profiles", "disk-*")):
            os.remove(measured)
        self.disk_limit = bytes_per_s
        if self.groups is not None:
            self.groups.limit_disk(bytes_per_s)

    def process_files(self):
        return [] if self.groups is None else self.groups.process_files()

    def use(self):
        """What its processes used so far; None without groups."""
        return None if self.groups is None else self.groups.use()

    def start(self, command, environment=None, sample=False):
        """A process in the device. `sample`: keep a history of bytes read and faults (Run.used_between)."""
        own = {"HOME": self.folder, "XDG_CACHE_HOME": os.path.join(self.folder, "cache"),
               "TMPDIR": os.path.join(self.folder, "tmp"), "HEARTH_HOME_RUN": self.home.run}
        running = Running([str(part) for part in command], self, {**os.environ, **own, **(environment or {})}, sample)
        self._running.append(running)
        return running

    def run(self, command, timeout_s=None, environment=None, sample=False):
        """Runs a command to its end, or to the end of its time."""
        return self.start(command, environment, sample).wait(timeout_s)

    def disk_rate(self, path, seconds=2.0):
        """Bytes per second at which this device reads its copy around the page cache, under its own limits."""
        done = self.run(disk.reader_command(path, seconds), timeout_s=seconds + 60)
        if done.code != 0:
            raise OSError(f"{self.name}: the disk cannot be measured: {done.errors}")
        return disk.rate_of(done.text())

    def end_processes(self):
        while self._running:
            self._running.pop().close()


class Home:
    """All devices of a scenario, in their order; `with Home(scenario) as home`."""

    def __init__(self, scenario, weight_bytes=None, folder=None):
        self.scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
        limits = [spec.memory_limit(weight_bytes) for spec in self.scenario.devices]
        base = os.path.realpath(folder or default_folder())
        os.makedirs(base, exist_ok=True)
        self.leftovers = registry.remove_leftovers()
        self.no_limits = why_no_limits(base)
        if self.no_limits:
            print(f"home: devices run on loopback without limits: {self.no_limits}", file=sys.stderr)
        self._entry = registry.RunEntry()
        self.run = self._entry.name
        self.folder = os.path.join(base, self.run)
        self.disk = disk.disk_of(base)
        self.devices, self._network, self._parts_of_cores = [], None, None
        atexit.register(self.close)
        try:
            self._make(limits)
        except BaseException:
            self.close()
            raise

    def _make(self, limits):
        self._entry.will_make_folder(self.folder)
        if not self.no_limits:
            self._entry.will_make_groups()
            mounts = registry.controllers()
            self._network = network.Network()
        for spec, limit in zip(self.scenario.devices, limits):
            device = Device(self, spec, os.path.join(self.folder, spec.name), limit)
            self.devices.append(device)
            if self.no_limits:
                continue
            device.groups = cgroup.Groups(mounts, self.run, spec.name, self.disk)
            device.groups.limit_memory(limit)
            device.groups.limit_cores(None if spec.has_part_of_core else spec.cores)
            device.namespace, device.address = self._network.add(spec)
            device.limit_disk(spec.disk_bytes_per_s)  # until they are calibrated
        self._give_parts_of_cores()

    def _give_parts_of_cores(self):
        words = []
        for device in self.devices:
            if device.groups is not None and device.spec.has_part_of_core:
                words += [str(device.spec.cores), device.groups.freezer_file()]
        if not words:
            return
        self._parts_of_cores = subprocess.Popen([sys.executable, "-B", "-P", _PART_OF_CORE, *words], stdin=subprocess.PIPE,
                                                stdout=subprocess.PIPE, text=True)
        if self._parts_of_cores.stdout.readline() != "ready\n":
            raise OSError("devices cannot have parts of a core: what freezes and thaws them did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __getitem__(self, name):
        return next(device for device in self.devices if device.name == name)

    def __iter__(self):
        return iter(self.devices)

    @property
    def head(self):
        return self[self.scenario.head().name]

    def place(self, path):
        """A copy of a file for each device."""
        for device in self.devices:
            device.place(path)

    def cpu_s(self):
        """Processor time of all devices; None where it is not known."""
        return None if self.no_limits else sum(device.groups.cpu_s() for device in self.devices)

    def calibrate_disks(self, path=None, seconds=3.0):
        """Measures what the disk gives each device while all read, and limits each with limit_disks(). `path`: a placed
        file to read, else one is made. Returns the rates, bytes per second in the order of the devices."""
        files = [device.file(path) if path else os.path.join(device.folder, "calibrate") for device in self.devices]
        for file in files:
            if not path:
                disk.write_random_file(file, 4 * disk.LEAST_FILE)
        os.sync()  # what is still to be written takes its share of the disk
        try:
            rates = disk.rates_together(files, seconds)
        finally:
            for file in files:
                if not path:
                    os.remove(file)
        self.limit_disks(rates)
        return rates

    def limit_disks(self, rates, asked=None):
        """Limits each device's disk to what the scenario, or `asked` (of each device), asks for. Where all together ask
        for more than DISK_SHARE of what the disk gave while all read (`rates`, of each device), each gets the same part
        of it. How the disk shared that among them says little: with limits nobody crowds the others out."""
        asked = asked or [device.spec.disk_bytes_per_s for device in self.devices]
        for device, rate, wanted in zip(self.devices, rates, asked):
            if wanted is None:
                continue
            if None in asked:  # those without a limit take what they can
                device.limit_disk(int(min(wanted, DISK_SHARE * rate)))
            else:
                device.limit_disk(int(wanted * min(1, DISK_SHARE * sum(rates) / sum(asked))))

    def set_read_ahead(self, kib):
        """What the kernel reads ahead on the disk of the home, for every program of the machine; the present value
        comes back with close()."""
        path = disk.read_ahead_setting(self.disk)
        self._entry.will_change(path)
        with open(path, "w", encoding="ascii") as file:
            file.write(str(kib))

    def read_ahead(self):
        with open(disk.read_ahead_setting(self.disk), encoding="ascii") as file:
            return int(file.read())

    def forget_caches(self):
        """Empties the page cache, the machine's and each device's; call it before what is to be measured."""
        if self.no_limits:
            return
        memory.drop_caches()
        for device in self.devices:
            device.groups.forget_cache()

    def close(self):
        """Ends all processes and removes everything; harmless the second time."""
        atexit.unregister(self.close)
        if self._parts_of_cores is not None:
            self._parts_of_cores.communicate()  # it ends with its input
            self._parts_of_cores = None
        if any(device.groups is not None for device in self.devices):
            cgroup.end_processes(registry.controllers(), self.run)  # also those whose parents are gone
        for device in self.devices:
            device.end_processes()
        if self._network is not None:
            self._network.close()
            self._network = None
        self._entry.close()
