"""What a busy machine does to hearth, and hearth to it.

    ./dev bench busy

One device generates text: alone, beside a program on every core that never rests, and beside one that works for 5 ms of
every 60th of a second, as playing a video does. For each policy (threads, niceness or scheduling class, how long an idle
thread spins before it sleeps): seconds a token, how much slower the restless programs are than without hearth, and how
many frames of the periodic one come late. Rounds of all policies in random order, so that what else the machine does hits
all of them.
"""
