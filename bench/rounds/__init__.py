"""How many rounds are best for a ring that streams: `./dev bench rounds`.

A ring of equal devices whose disks are slow and whose memory holds a part of the weights generates a few tokens with
1, 2, 4, 8 rounds, and with as many as hearth chooses itself (--rounds auto). Beside each stands the bound of that many
rounds: with E bytes more weights than memory on a device, a disk of d bytes a second and A seconds of computing in all,
    one round     the sum over the devices of max(A of the device, E / d): disks do not overlap
    k rounds      max(A, E / d * k / (k - 1))
E is the head's, the only one that is told; because layers are whole, others have some percent more or less.
What must hold: the best number is at least twice as fast as one round, within 1.25 of its bound, and at most one step of
the sweep away from hearth's choice.

`--rounds auto` tries only hearth's choice, and makes its packs in the same run: for models of which one set of packs is as
much as the disk holds, e.g. `--shape 70b --layers 40 --memory 40 --rounds auto` (21 GB, and as much for the packs). What
the machine's memory cannot hold is not computed without disks; then bounds count disks only.
"""
