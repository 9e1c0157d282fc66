"""Disks: which one a folder is on, how fast it delivers, what the kernel reads ahead.

    disk.py FILE [--seconds S] [--depth N] [--block BYTES]

reads FILE with O_DIRECT from N threads, over and over, and prints {"bytes", "seconds", "bytes_per_s"}. Direct reads
bypass every cache of this kernel; a cache of the host below a virtual machine is outside its reach.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time

# What residency uses: 8 reads of 1 MiB in flight.
DEPTH = 8
BLOCK = 1 << 20

WARM_UP_S = 0.3

# Shorter files let a disk answer from its own cache.
LEAST_FILE = 64 << 20

# loop(4)
_LOOP_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_LOOP_AUTOCLEAR, _LOOP_DIRECT_IO = 4, 16
# mount(2)
_NOATIME, _RECURSIVE, _PRIVATE, _DETACH = 1024, 16384, 1 << 18, 2


def disk_of(folder):
    """MAJOR:MINOR of the whole disk that holds the folder; None where it is on none (tmpfs, overlay, network)."""
    device = os.stat(folder).st_dev
    path = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not os.path.isdir(path):
        return None
    if os.path.exists(os.path.join(path, "partition")):  # limits and counts are kept for whole disks only
        path = os.path.dirname(path)
    with open(os.path.join(path, "dev"), encoding="ascii") as file:
        return file.read().strip()


def read_ahead_setting(disk):
    """The file with the disk's read-ahead in KiB."""
    return f"/sys/dev/block/{disk}/queue/read_ahead_kb"


def _mount(source, at, kind, flags=0, data=""):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), at.encode(), kind.encode() if kind else None, flags, data.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot mount {kind or 'privately'} on {at}: {os.strerror(code)}")


@contextlib.contextmanager
def _mounted(folder, source, kind, flags=0, data=""):
    at = tempfile.mkdtemp(dir=folder)
    try:
        _mount(source, at, kind, flags, data)
        try:
            yield at
        finally:
            ctypes.CDLL(None).umount2(at.encode(), _DETACH)
    finally:
        os.rmdir(at)


def small_disk(folder, n_bytes):
    """A file system in memory of that size, below `folder`, for as long as the context lasts. Needs root; OSError."""
    return _mounted(folder, "tmpfs", "tmpfs", data=f"size={n_bytes}")


def own_mounts():
    """What this program mounts from here on nobody else sees, and goes with it however it ends. Call it before
    threads are started."""
    os.unshare(os.CLONE_NEWNS)
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)


def _loop_device(path):
    """(path, descriptor) of a disk made of the file; it goes when the last who uses it does. OSError."""
    with open(path, "r+b", buffering=0) as backing, open("/dev/loop-control", "r+b", buffering=0) as control:
        device = f"/dev/loop{fcntl.ioctl(control, _LOOP_GET_FREE)}"
        loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            # struct loop_config: file, block size (0: the usual), struct loop_info64 with its flags, reserved.
            fcntl.ioctl(loop, _LOOP_CONFIGURE,
                        struct.pack("=II52xI176x64x", backing.fileno(), 0, _LOOP_AUTOCLEAR | _LOOP_DIRECT_IO))
        except OSError:
            os.close(loop)
            raise
        return device, loop


@contextlib.contextmanager
def memory_disk(folder, n_bytes, read_ahead_kib):
    """A folder on a disk of its own that lies in memory: for rates that no disk of this machine has. It can be
    throttled as any other; all its memory is taken now, so it belongs to no device; reading from it takes processor
    time of no device. For as long as the context lasts, see own_mounts(). Needs root and mkfs.ext4; OSError."""
    with small_disk(folder, n_bytes + (64 << 20)) as memory:
        path = os.path.join(memory, "disk")
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        device, loop = _loop_device(path)
        try:
            made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E",
                                   "nodiscard,lazy_itable_init=0", device], stderr=subprocess.PIPE, text=True)
            if made.returncode != 0:
                raise OSError(f"mkfs.ext4 on {device}: {made.stderr.strip()}")
            with _mounted(folder, device, "ext4", _NOATIME) as at:
                with open(read_ahead_setting(disk_of(at)), "w", encoding="ascii") as setting:
                    setting.write(str(read_ahead_kib))
                yield at
        finally:
            os.close(loop)


def copy_file(source, target):
    """A copy with blocks of its own: a link or a shared extent would share the page cache between devices."""
    with open(source, "rb", buffering=0) as read, open(target, "wb", buffering=0) as write:
        while piece := read.read(8 << 20):
            view = memoryview(piece)
            while view:
                view = view[write.write(view):]
        os.fsync(write.fileno())
        for file in (read, write):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_random_file(path, n_bytes):
    with open(path, "wb", buffering=0) as file:
        for _ in range(-(-n_bytes // (8 << 20))):
            file.write(os.urandom(8 << 20))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def direct_read(path, seconds, depth=DEPTH, block=BLOCK):
    """(bytes, seconds): `depth` threads read the file in turn for that long. Raises OSError where O_DIRECT is refused.

    What completes in the first WARM_UP_S does not count: a throttle lets a burst of a tenth of a second pass. The
    interval is from one completed read to another, so reads under way at its ends do not shift the rate.
    """
    file = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        n_blocks = os.fstat(file).st_size // block
        if n_blocks == 0:
            raise OSError(f"{path} is shorter than one block of {block} bytes")
        lock = threading.Lock()
        state = {"next": 0, "bytes": 0, "first": None, "last": None, "error": None}
        start = time.monotonic()
        end = start + WARM_UP_S + seconds

        def work():
            buffer = mmap.mmap(-1, block)  # page-aligned, as O_DIRECT wants it
            while time.monotonic() < end and state["error"] is None:
                with lock:
                    at = state["next"]
                    state["next"] = (at + 1) % n_blocks
                try:
                    got = os.preadv(file, [buffer], at * block)
                except OSError as error:
                    state["error"] = error
                    return
                with lock:
                    now = time.monotonic()
                    if state["first"] is not None:
                        state["bytes"] += got
                        state["last"] = now
                    elif now >= start + WARM_UP_S:
                        state["first"] = now

        threads = [threading.Thread(target=work) for _ in range(depth)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if state["error"] is not None:
            raise state["error"]
        if state["last"] is None:
            raise OSError(f"{path}: not two reads of {block} bytes were completed within {seconds} s")
        return state["bytes"], state["last"] - state["first"]
    finally:
        os.close(file)


def reader_command(path, seconds):
    """The reader as a program: python's lock then does not tie readers together, and limits apply to it."""
    return [sys.executable, "-B", "-P", os.path.abspath(__file__), path, "--seconds", str(seconds)]


def rate_of(output):
    """Bytes per second from what a reader printed."""
    return json.loads(output)["bytes_per_s"]


def rates_together(paths, seconds=3.0):
    """Bytes per second of each file while all are read at the same time. Raises OSError."""
    readers = [subprocess.Popen(reader_command(path, seconds), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True) for path in paths]
    outputs = [reader.communicate(timeout=seconds + 60) for reader in readers]
    for reader, (_, errors) in zip(readers, outputs):
        if reader.returncode != 0:
            raise OSError(f"the disk cannot be measured: {errors.strip()}")
    return [rate_of(out) for out, _ in outputs]


def main():
    parser = argparse.ArgumentParser(prog="disk.py", description="How fast a file is read around all caches.")
    parser.add_argument("file")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--block", type=int, default=BLOCK)
    options = parser.parse_args()
    try:
        n_bytes, seconds = direct_read(options.file, options.seconds, options.depth, options.block)
    except OSError as error:
        sys.exit(f"{options.file}: {error}")
    print(json.dumps({"bytes": n_bytes, "seconds": seconds, "bytes_per_s": n_bytes / seconds}))


if __name__ == "__main__":
    main()
