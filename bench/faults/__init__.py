"""What a run does when the pack it streams from is damaged, before it starts or while it generates.

    ./dev bench faults

Each case runs `hearth bench --each-token` with too little memory for the weights and damages something: the pack is
removed, cut short, one of its bits is flipped (in its header, in weights); the disk fills while a pack is made; a read
fails. What must hold: the run goes on, or a pack is made anew, or there is a clear error, and every token that was given
is the one of a run without the fault.
"""
