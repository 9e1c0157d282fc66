"""Models larger than memory: what a token costs hearth and libllama in the same emulated home.

    ./dev bench lowmem [--quick]

Each case is a number of devices, a disk rate and a memory limit in percent of the weights a token needs. All programs
run in turn (A B C D, A B C D, ...) on the same files under the same limits, each from an empty page cache, each with
warm-up tokens that do not count.
"""
