"""What a long prompt reads and how long it takes where weights are streamed.

    ./dev bench prefill

One emulated device whose weights do not fit. The batches of a prompt pass each layer together, so that each streamed
byte is read once for all of them; beside it what the same number of batches would take one after the other, from a
prompt of a single batch.
"""
