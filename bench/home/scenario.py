"""Scenarios: what devices a home has. The format is described in docs/howto/emulated-home.md."""

import dataclasses
import os
import re
import tomllib

SCENARIOS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scenarios")

# Everything runs on one machine: more devices measure its scheduler.
MAX_DEVICES = 16

ROLES = ("head", "worker")

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class ScenarioError(ValueError):
    """A scenario that cannot be: the message names the file, the device and the field."""


@dataclasses.dataclass(frozen=True)
class DeviceSpec:
    """One device. None: no limit."""

    name: str
    role: str = "worker"
    memory_bytes: int | None = None
    memory_share: float | None = None  # of the weights a token needs, instead of memory_bytes
    cores: float | None = None  # processor time per time
    disk_bytes_per_s: int | None = None  # the most it may read
    link_bytes_per_s: int | None = None  # to the switch and from it, each
    delay_ms: float = 0.0  # one way, on top of what the machine takes
    jitter_ms: float = 0.0  # up to this much more, drawn for each packet; order is kept
    loss_percent: float = 0.0

    @property
    def has_part_of_core(self):
        return self.cores is not None and self.cores < 1

    def memory_limit(self, weight_bytes):
        """Bytes, None for no limit."""
        if self.memory_share is None:
            return self.memory_bytes
        if not weight_bytes:
            raise ScenarioError(f"device {self.name}: its memory is a share of the weights, but no model was given")
        return int(self.memory_share * weight_bytes)


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    devices: tuple[DeviceSpec, ...]
    description: str = ""

    def head(self):
        """The device that asks: the one of role head, else the first."""
        return next((device for device in self.devices if device.role == "head"), self.devices[0])


def parse_bytes(text):
    """"512 MiB" or "1.5GB" in bytes; None if it is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(B|[KMG]i?B)\s*", text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def load_scenario(name):
    """Reads a file, or one of the scenarios that come with the project by its name."""
    path = name if os.path.sep in name or name.endswith(".toml") else os.path.join(SCENARIOS, name + ".toml")
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        known = ", ".join(sorted(entry.removesuffix(".toml") for entry in os.listdir(SCENARIOS)))
        raise ScenarioError(f"{path}: there is no such scenario; there are: {known}, or name a file") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from None
    return parse_scenario(table, os.path.basename(path).removesuffix(".toml"))


def parse_scenario(table, name):
    """A scenario from a parsed TOML table."""
    _known(table, {"description", "device"}, name)
    tables = table.get("device")
    if not isinstance(tables, list) or not 1 <= len(tables) <= MAX_DEVICES:
        raise ScenarioError(f"{name}: expected 1 to {MAX_DEVICES} tables [[device]]")
    devices = tuple(_device(one, f"{name}: device {number}") for number, one in enumerate(tables, 1))
    names = [device.name for device in devices]
    if len(set(names)) != len(names):
        raise ScenarioError(f"{name}: two devices have the same name: {', '.join(names)}")
    if sum(device.role == "head" for device in devices) > 1:
        raise ScenarioError(f"{name}: more than one device has the role head")
    return Scenario(name, devices, str(table.get("description", "")))


def _known(table, allowed, where):
    unknown = sorted(set(table) - allowed)
    if unknown:
        raise ScenarioError(f"{where}: unknown {', '.join(unknown)}; there are: {', '.join(sorted(allowed))}")


def _number(table, key, where, least, most, default=None):
    value = table.get(key, default)
    if value is default:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ScenarioError(f"{where}: {key} is {value!r}; expected a number from {least} to {most}")
    return float(value)


def _device(table, where):
    _known(table, {"name", "role", "memory", "cores", "disk_mb_s", "link_mbit_s", "delay_ms", "jitter_ms",
                   "loss_percent"}, where)
    name = table.get("name")
    # It becomes a folder, a group and part of an interface's environment.
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name):
        raise ScenarioError(f"{where}: name is {name!r}; expected lower-case letters, digits and dashes, at most 32")
    where = f"{where} ({name})"
    role = table.get("role", "worker")
    if role not in ROLES:
        raise ScenarioError(f"{where}: role is {role!r}; expected one of {', '.join(ROLES)}")
    memory_bytes, memory_share = _memory(table.get("memory"), where)
    disk = _number(table, "disk_mb_s", where, 1, 100_000)
    link = _number(table, "link_mbit_s", where, 0.1, 30_000)  # above, the kernel's 32-bit field does not hold it
    return DeviceSpec(name=name, role=role, memory_bytes=memory_bytes, memory_share=memory_share,
                      cores=_number(table, "cores", where, 0.05, 1024),
                      disk_bytes_per_s=None if disk is None else int(disk * 1e6),
                      link_bytes_per_s=None if link is None else int(link * 1e6 / 8),
                      delay_ms=_number(table, "delay_ms", where, 0, 10_000, 0.0),
                      jitter_ms=_number(table, "jitter_ms", where, 0, 10_000, 0.0),
                      loss_percent=_number(table, "loss_percent", where, 0, 50, 0.0))


def _memory(value, where):
    """(bytes, share): one of them, or none."""
    if value is None:
        return None, None
    if isinstance(value, str):
        if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value):
            if float(match[1]) > 0:
                return None, float(match[1]) / 100
        elif (size := parse_bytes(value)) and size >= 4 << 20:
            return size, None
    raise ScenarioError(f'{where}: memory is {value!r}; expected a size like "900 MiB" (4 MiB or more), or a share of '
                        'the weights like "50 %"')
