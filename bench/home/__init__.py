"""An emulated home: several devices on one machine, each with limits of its own.

A device is a network namespace on a common switch, a memory group that also bounds its page cache, a disk rate, a
share of the processor, and a private folder on a real disk (pages are charged to the first group that touches them, so
no two devices may share a file). `Home` makes the devices of a scenario, a small TOML file, and removes every trace of
them however the program ends; what a killed program left behind is removed by the next one.

    with Home(load_scenario("pair"), weight_bytes=...) as home:
        home.place(model)                      # a copy for each device
        home.calibrate_disks()                 # then the disk limits bind
        run = home["laptop"].run(["hearth", "bench", "-m", home["laptop"].file(model)])
        run.seconds, run.use.read_bytes, run.use.peak_memory_bytes, run.use.oom_kills

Limits need root and cgroup v1. Elsewhere `Home` says so once and runs the same commands on loopback without limits.
Thread contract: a Home belongs to one thread; the devices' `run` may be called from threads of their own.
"""

from .home import Device, Home
from .processes import Run, Running
from .scenario import DeviceSpec, Scenario, ScenarioError, load_scenario

__all__ = ["Device", "DeviceSpec", "Home", "Run", "Running", "Scenario", "ScenarioError", "load_scenario"]
