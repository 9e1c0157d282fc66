"""Which cases there are."""

import dataclasses
import fnmatch

MEMORY_PERCENT = (110, 90, 75, 60, 50, 40, 25, 10)

# Arguments of hearth-synth. The first is 1.4 GB, the second 4.9 GB on each device.
SHAPES = {"1b": ("--shape", "1b", "--layers", "32"), "8b": ("--shape", "8b")}
TYPE = "Q4_K_M"


@dataclasses.dataclass(frozen=True)
class Case:
    shape: str
    n_devices: int
    disk_mb_s: int
    memory_percent: int  # of the weights, for all devices together; each has the same part

    @property
    def name(self):
        return f"{self.shape}:{self.n_devices}x{self.disk_mb_s}@{self.memory_percent}"


def all_cases():
    """In an order in which cases of the same devices and model follow one another."""
    found = [Case("1b", 1, disk, memory) for disk in (300, 500, 2000) for memory in MEMORY_PERCENT]
    found += [Case("1b", n, disk, memory) for n in (2, 4) for disk in (100, 150) for memory in MEMORY_PERCENT]
    found += [Case("8b", 1, disk, memory) for disk in (500, 2000) for memory in (60, 50)]
    found += [Case("8b", 4, 150, memory) for memory in (60, 50)]
    return found


QUICK = (Case("1b", 1, 500, 50),)


def chosen(patterns):
    """Those whose name matches one of the shell patterns."""
    return [case for case in all_cases() if any(fnmatch.fnmatch(case.name, pattern) for pattern in patterns)]
