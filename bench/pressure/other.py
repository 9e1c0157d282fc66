"""The other program: takes BYTES of memory and touches all of it, again and again, until it is ended.

    python3 other.py BYTES

Prints a line once it has the memory, then one for each time it has touched it all, with the seconds that took.
"""

import ctypes
import mmap
import sys
import time

_STEP = 1 << 20


def main():
    n_bytes = int(sys.argv[1])
    memory = mmap.mmap(-1, n_bytes)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def touch(value):
        for at in range(0, n_bytes, _STEP):
            ctypes.memset(address + at, value, min(_STEP, n_bytes - at))

    touch(1)
    print("taken", flush=True)
    value = 1
    while True:
        start = time.monotonic()
        value = value % 250 + 1
        touch(value)
        print(f"{time.monotonic() - start:.6f}", flush=True)
        time.sleep(0.05)  # a program that works with its memory now and then, not one that fills a core


main()
