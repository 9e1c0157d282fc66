"""The network of a home: one switch, and each device in a namespace of its own on a cable to it.

A cable is a veth pair; where it has delay, jitter or loss it is two taps with a relay program between them. Rates are
token buckets on both ends, so each direction has the link's rate. Everything vanishes with its last descriptor.
"""

import os
import subprocess
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(_HERE, "..", "..", "tests", "cluster"))
import netns  # noqa: E402

# RFC 2544: addresses for benchmarks, routed nowhere.
_ADDRESS = "198.18.0.{}"
_BRIDGE = "switch"


class Network:
    def __init__(self):
        self._namespaces = []
        self._relays = []
        self._switch = self._namespace()
        self._switch.add_bridge(_BRIDGE)
        self._switch.set_up(_BRIDGE, True)

    def _namespace(self):
        namespace = netns.Namespace()
        self._namespaces.append(namespace)
        return namespace

    def add(self, spec):
        """(namespace, address) of a new device."""
        number = len(self._namespaces)
        device, port = self._namespace(), f"port{number}"
        if spec.delay_ms or spec.jitter_ms or spec.loss_percent:
            self._relay(device, port, spec)
        else:
            device.add_cable("link", self._switch, port)
        device.add_address("link", _ADDRESS.format(number), 24)
        self._switch.plug(port, _BRIDGE)
        if spec.link_bytes_per_s is not None:
            device.limit_rate("link", spec.link_bytes_per_s)
            self._switch.limit_rate(port, spec.link_bytes_per_s)
        device.set_up("link", True)
        self._switch.set_up(port, True)
        return device, _ADDRESS.format(number)

    def _relay(self, device, port, spec):
        near, far = device.add_tap("link"), self._switch.add_tap(port)
        try:
            self._relays.append(subprocess.Popen(
                [sys.executable, "-B", "-P", os.path.join(_HERE, "relay.py"), str(near), str(far), str(spec.delay_ms),
                 str(spec.jitter_ms), str(spec.loss_percent)], stdin=subprocess.PIPE, pass_fds=(near, far)))
        finally:
            os.close(near)
            os.close(far)

    def close(self):
        for relay in self._relays:
            relay.stdin.close()
            relay.wait()
        for namespace in self._namespaces:
            namespace.close()
        self._relays, self._namespaces = [], []
