"""Checkpoints and trained weights that are truncated or have a bit flipped."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

from nas.networks import weights
from nas.runs import checkpoint
from soak import processes, runs
from soak.cases import Case, Reference, Result, compare, copied, generator, message_fault, one_line

JOBS = ("search-agd", "train", "train-hand-made")
_FLIPS = 100
_TENTHS = 9


def cases(references: list[Reference], seed: int) -> list[Case]:
    """Cases for the checkpoints of searches and trainings, and for the weights of both kinds of networks."""
    found = []
    for reference in references:
        name = reference.job.name
        for number in range(_TENTHS + _FLIPS):
            case = f"damage/checkpoint/{name}/{number}"
            found.append(Case(case, partial(_checkpoint, reference, seed, case, number)))
        if (reference.directory / weights.NAME).exists():
            # Twice as many flips, since the first half of them goes into the header.
            for number in range(_TENTHS + 2 * _FLIPS):
                case = f"damage/weights/{name}/{number}"
                found.append(Case(case, partial(_weights, reference, seed, case, number)))
    return found


def damaged(content: bytes, number: int, random: Random, *, within: int | None = None) -> bytes:
    """The content truncated at a tenth for the first nine numbers, else with one bit flipped before byte `within`."""
    if number < _TENTHS:
        return content[: len(content) * (number + 1) // (_TENTHS + 1)]
    changed = bytearray(content)
    changed[random.randrange(within or len(content))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _checkpoint(reference: Reference, seed: int, name: str, number: int, scratch: Path, result: Result) -> None:
    directory = copied(reference.directory, scratch)  # finished, so it also has the checkpoint before the last
    path = directory / checkpoint.NAME
    path.write_bytes(damaged(path.read_bytes(), number, generator(seed, name)))
    ended = runs.start(reference.job, directory, "--resume")
    if ended.code == 0 and "Traceback" not in ended.stderr:
        # The damaged file is kept, and a warning says so.
        kept = frozenset({f"left behind {checkpoint.DAMAGED}"})
        compare(reference, directory, result, "resumed", lost=kept if "warning: " in ended.stderr else frozenset())
        return
    wrong = one_line(ended)
    result.counts["refused" if wrong is None else "wrong failure"] += 1
    # The checkpoint before the damaged one is intact, so even a well-worded refusal is a fault.
    result.problem("failure", wrong or f"refused, though there is the one before: {ended.stderr.strip()[-300:]}")


def _weights(reference: Reference, seed: int, name: str, number: int, scratch: Path, result: Result) -> None:
    content = (reference.directory / weights.NAME).read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path = scratch / weights.NAME
    in_header = number < _TENTHS + _FLIPS
    path.write_bytes(damaged(content, number, generator(seed, name), within=header if in_header else None))

    def load() -> None:
        try:
            loaded = weights.load(path)
        except ValueError as error:
            print("refused", message_fault(str(error)) or "")
        else:
            print("loaded", loaded_digest(loaded))

    whole = processes.call(lambda: print(loaded_digest(weights.load(reference.directory / weights.NAME))), seconds=60)
    ended = processes.call(load, seconds=10)
    outcome, _, told = ended.stdout.strip().partition(" ")
    if ended.code != 0 or ended.hung:
        outcome = "wrong failure"
        result.problem("failure", "it hangs" if ended.hung else ended.stderr.strip()[-600:])
    elif outcome == "refused" and told:
        result.problem("message", told)
    elif outcome == "loaded" and told != whole.stdout.strip():
        outcome = "another result"
        result.problem("another result", "loaded as another network, and nothing said")
    result.counts[outcome] += 1


def loaded_digest(trained: weights.TrainedNetwork) -> str:
    """A digest of everything that a weights file yields."""
    rest = {name: value for name, value in vars(trained).items() if name != "network"}
    return runs.digest((dict(trained.network.state_dict()), {name: repr(value) for name, value in rest.items()}))
