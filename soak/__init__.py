"""Long tests of what a user's machine can do to a run: `python -m soak --out FILE`, or `make soak`.

The unit tests check the program at chosen points. This package checks it everywhere, for most of an hour, and counts.

- `kills`: searches of every space and trainings are killed at random moments, and before (or in the middle of) every
  single file operation, including those of a resumption; then they are resumed.
- `disk`: the same file operations fail instead (no space, read-only, no permission), and runs meet a disk that is
  really full; then the disk works again, and they are resumed.
- `damage`: checkpoints and trained weights are truncated at every tenth and have single bits flipped.
- `fuzz`: every reader of files gets thousands of mutated files.

The criterion is the same everywhere: a run that ends has the results of an undisturbed run, bit for bit; anything else
is one line of error and an exit code. Faults are therefore: a different result without a message, a traceback, a file
refused with an error other than the documented one, a message that is longer than 1,000 characters or that a terminal
would not show as it is, a crash, more than 10 seconds or 1 GiB for one input, a run that cannot be resumed, and files
left behind.

Every case has a name, such as `kills/kill/train/17` or `fuzz/weights/3`. A case depends on its name and the seed alone
(a random kill also on the speed of the machine). `--only` takes the beginning of a name, so

    python -m soak --seed 0 --only fuzz/weights/3/ --out one.json

repeats one case. For a fault of a reader, the output contains the input, shortened as far as the fault persists.

Design: starting the program takes seconds, most of them for imports. Therefore one process imports everything, computes
nothing, and forks a process for each start of the program (`processes`), in which file operations can be watched and
made to fail (`faults`). `runs` holds the small searches and trainings, and compares what they leave behind. Each part
makes its cases; `__main__` runs them, as many at a time as there are CPUs, and writes the counts.
"""
