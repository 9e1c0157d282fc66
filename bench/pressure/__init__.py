"""Another program takes memory while a model is streamed, and gives it back: what either of them loses.

    ./dev bench pressure

One emulated device. hearth generates; after some tokens a second program on the same device takes half as much memory as
hearth has pinned and touches all of it again and again; then it ends. What must hold: nobody is killed for memory, no
token takes longer than 2 s and 1.5 times what is predicted for the smaller pins, the speed is back to 1.1 times what it
was within 30 s, and the tokens are those of a run without the other program.
"""
