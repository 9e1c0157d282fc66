"""Whether plans do what they say, and whether others would be better: `./dev bench plan`.

    ./dev bench plan accuracy     predicted against measured seconds per token, on homes from roomy to 30 % memory, with
                                  slow and fast disks, slow links
    ./dev bench plan baselines    the plan against an even split, one by memory, and the paper's Halda (our own
                                  implementation), on homes with unequal devices

accuracy: for each home some pairs of (measure all devices and links anew, run); homes take turns with nothing else. What
must hold: the median over the pairs of |predicted - measured| / measured is at most 15 % over all homes and at most 25 %
for each. Beside it stands how well the runs of a home repeat (half the range over the median); a home that repeats worse
than 10 % is unresolved.

baselines: all splits take turns, so that each round of a home is a set of pairs. Shown is the geometric mean of ours /
other with its 95 % interval by Student's t over the rounds. What must hold: nowhere an interval wholly above 1.03, and
against each other split a home where that is at least 1.5 times as slow. All splits are run by hearth itself, with
--layer-window and --rounds; Halda's inputs are what it measures: FLOPS of a large product (from our pass of most tokens),
sequential reads, memory.
"""
