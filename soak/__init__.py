"""Long tests of what a user's machine can do to a run: `python -m soak --out FILE`, which is `make soak`.

The tests ask whether the program is right where they look; this looks everywhere, for most of an hour, and counts.

- `kills`: searches of every space and trainings are killed, at random moments and before (or in the middle of) each
  single file operation, also while they resume; then they are resumed.
- `disk`: the same file operations fail instead (no space, read-only, no permission), and runs end on a disk that is
  really full; then the disk is whole again, and they are resumed.
- `damage`: checkpoints and trained weights are cut off at every tenth and have single bits flipped.
- `fuzz`: every reader of files gets thousands of mutated files.

What is right is the same everywhere: a run that ends has, bit for bit, the results of the run that nothing happened to;
everything else is one line of error and an exit code. So these are faults: another result without a word, a traceback,
a file refused with no error of the documented class, a message that is longer than 1,000 characters or that a terminal
would not show as it is, a crash, more than 10 seconds or 1 GiB for one input, a run that cannot be resumed, and files
left behind.

Every case has a name, such as `kills/point/train/17` or `fuzz/weights/3`, which with the seed is all that it depends on
(a random kill also depends on how fast the machine is). `--only` takes the beginning of a name, so

    python -m soak --seed 0 --only fuzz/weights/3/ --out one.json

does one case again. A fault of a reader has the input itself in the output, shortened as long as the fault stays.

How it is built. Starting the program costs seconds, most of it imports. So one process imports everything, computes
nothing, and forks a process for each start of the program (`processes`), in which file operations can be watched and
fail (`faults`). `runs` holds the small searches and trainings, and compares what they leave. Each part makes its cases,
and `__main__` runs them, as many at a time as there are CPUs, and writes the counts.
"""
