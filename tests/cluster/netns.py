"""Network namespaces for tests: two homes joined by one cable that can be pulled.

Made by system calls of the test's own, so that nothing needs to be installed. A namespace and its cable vanish with
the last process and descriptor in it, so nothing is left behind even when the test is killed.
"""

import errno
import fcntl
import itertools
import os
import socket
import struct

# rtnetlink(7): RTM_NEWLINK makes and changes devices, RTM_NEWADDR adds addresses, RTM_NEWQDISC sets how a device sends;
# each is answered by NLMSG_ERROR, whose code is 0 for success.
_LINK, _ADDRESS, _QDISC, _ERROR = 16, 20, 36, 2
_REQUEST, _ACK, _REPLACE, _EXCLUSIVE, _NEW = 0x1, 0x4, 0x100, 0x200, 0x400
_UP = 1


def _attribute(kind, payload):
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def _link_header(index=0, flags=0, change=0):
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def _own_namespace():
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Namespace:
    """A network of its own. Processes started inside `with namespace:` live in it."""

    def __init__(self):
        home = _own_namespace()
        try:
            os.unshare(os.CLONE_NEWNET)
            try:
                self._handle = _own_namespace()
                self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            finally:
                os.setns(home, os.CLONE_NEWNET)
        finally:
            os.close(home)
        self._sequence = itertools.count(1)
        self._outside = []
        self.set_up("lo", True)

    def __enter__(self):
        self._outside.append(_own_namespace())
        os.setns(self._handle, os.CLONE_NEWNET)
        return self

    def __exit__(self, *_):
        outside = self._outside.pop()
        os.setns(outside, os.CLONE_NEWNET)
        os.close(outside)

    def close(self):
        self._netlink.close()
        os.close(self._handle)

    def set_up(self, device, up):
        self._ask(_LINK, 0, _link_header(self._index(device), _UP if up else 0, _UP))

    def add_address(self, device, address, bits):
        packed = socket.inet_aton(address)
        header = struct.pack("=BBBBI", socket.AF_INET, bits, 0, 0, self._index(device))
        self._ask(_ADDRESS, _NEW | _EXCLUSIVE, header + _attribute(2, packed) + _attribute(1, packed))

    def add_cable(self, device, other, other_device):
        """A veth pair: `device` here, `other_device` in the namespace `other`."""
        peer = _link_header() + _attribute(3, other_device.encode() + b"\0")
        peer += _attribute(28, struct.pack("=i", other._handle))
        kind = _attribute(1, b"veth") + _attribute(2, _attribute(1, peer))
        link = _link_header() + _attribute(3, device.encode() + b"\0") + _attribute(18, kind)
        self._ask(_LINK, _NEW | _EXCLUSIVE, link)

    def add_bridge(self, device):
        kind = _attribute(1, b"bridge")
        link = _link_header() + _attribute(3, device.encode() + b"\0") + _attribute(18, kind)
        self._ask(_LINK, _NEW | _EXCLUSIVE, link)

    def plug(self, device, bridge):
        """Makes `device` a port of `bridge`."""
        self._ask(_LINK, 0, _link_header(self._index(device)) + _attribute(10, struct.pack("=I", self._index(bridge))))

    def add_tap(self, device):
        """A device whose packets are read from and written to the descriptor that is returned; it lives as long."""
        with self:
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                # linux/if_tun.h: TUNSETIFF; IFF_TAP, and IFF_NO_PI: nothing but the Ethernet frame.
                fcntl.ioctl(tap, 0x400454CA, struct.pack("=16sH22x", device.encode(), 0x0002 | 0x1000))
            except OSError:
                os.close(tap)
                raise
        return tap

    def limit_rate(self, device, bytes_per_s):
        """What `device` sends leaves at this rate (tc-tbf(8)): bursts of 4 ms, a queue of 50 ms, then packets are lost."""
        burst = max(bytes_per_s // 250, 16 << 10)
        limit = burst + max(bytes_per_s // 20, 64 << 10)
        # linux/pkt_sched.h: tc_tbf_qopt is two tc_ratespec (rate, peak rate), limit, buffer, mtu. Link layer 1 is
        # Ethernet; the kernel then needs no table of rates.
        rate = struct.pack("=BBHhHI", 0, 1, 0, -1, 0, bytes_per_s)
        parameters = rate + bytes(12) + struct.pack("=III", limit, 0, 0)
        options = _attribute(1, parameters) + _attribute(6, struct.pack("=I", burst))
        header = struct.pack("=BxxxiIII", socket.AF_UNSPEC, self._index(device), 0, 0xFFFFFFFF, 0)
        body = header + _attribute(1, b"tbf\0") + _attribute(2, options)
        self._ask(_QDISC, _NEW | _REPLACE, body)

    def _index(self, device):
        with self:
            return socket.if_nametoindex(device)

    def _ask(self, kind, flags, body):
        sequence = next(self._sequence)
        header = struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST | _ACK, sequence, 0)
        self._netlink.send(header + body)
        answer = self._netlink.recv(65536)
        _, kind, _, got, _, code = struct.unpack_from("=IHHIIi", answer)
        if kind != _ERROR or got != sequence:
            raise OSError(errno.EPROTO, f"netlink answered {kind} to request {sequence}")
        if code != 0:
            raise OSError(-code, os.strerror(-code))


class Cable:
    """Two namespaces, `near` and `far`, and the cable between them; `with Cable() as cable:`."""

    NEAR_ADDRESS, FAR_ADDRESS = "192.0.2.1", "192.0.2.2"

    def __init__(self):
        self._namespaces = []
        try:
            self.near = self._namespace()
            self.far = self._namespace()
            self.near.add_cable("cable", self.far, "cable")
            self.near.add_address("cable", self.NEAR_ADDRESS, 24)
            self.far.add_address("cable", self.FAR_ADDRESS, 24)
            self.near.set_up("cable", True)
            self.far.set_up("cable", True)
        except OSError:
            self.close()
            raise

    def _namespace(self):
        namespace = Namespace()
        self._namespaces.append(namespace)
        return namespace

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for namespace in self._namespaces:
            namespace.close()


def why_not():
    """The reason why this process may not make namespaces; None when it may."""
    try:
        Cable().close()
    except OSError as error:
        return f"no network namespaces and veth pairs here (run as root, with a kernel that has them): {error}"
    return None
