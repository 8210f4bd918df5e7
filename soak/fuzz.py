"""Gives every reader of files faulty files."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import msgspec
import torch

import genotypes
import nas.runs.environment
from nas.data import DataError
from nas.data.pixels import read_image
from nas.errors import UsageError
from nas.evaluate import read_run
from nas.methods import saved
from nas.networks import architecture, weights
from nas.networks.cells import NetworkConfig
from nas.networks.handmade import HandmadeConfig
from nas.networks.latency_table import LatencyModel
from nas.report import tested
from nas.runs import checkpoint, mixing, record
from nas.runs.directory import read_config
from nas.study import compare, planning, table
from soak import processes, seeds
from soak.cases import Case, Reference, Result, generator, message_fault
from soak.mutate import mutated

JOBS = ("search-agd", "train", "train-hand-made")
"""The runs whose files are mutated."""

INPUTS = 10_000
"""Inputs for each reader."""

BATCH = 500
"""Inputs for one process, which are one case."""

SECONDS = 10
MEMORY = 2**30


@dataclass(frozen=True)
class Reader:
    """A reader of a file.

    Attributes:
        read: reads the file; whatever it returns is valid.
        refusal: the class of errors that it documents.
        seeds: valid files, from which the inputs are made.
        file: name of the file, which every message must contain.
        folder: what else the reader needs next to the file.
        words: tokens of the file's language.
    """

    name: str
    read: Callable[[Path], object]
    refusal: type[Exception]
    seeds: tuple[bytes, ...]
    file: str
    folder: Path | None = None
    words: tuple[bytes, ...] = ()
    mutate: Callable[[bytes, Random, tuple[bytes, ...]], bytes] = mutated


def cases(references: list[Reference], seed: int) -> list[Case]:
    """Batches of inputs for every reader; none unless all runs that they need are there."""
    if {reference.job.name for reference in references} != set(JOBS):
        return []
    return [
        Case(f"fuzz/{reader.name}/{number}", partial(_batch, reader, seed, range(number * BATCH, (number + 1) * BATCH)))
        for reader in readers(references)
        for number in range(INPUTS // BATCH)
    ]


def readers(references: list[Reference]) -> list[Reader]:
    """The readers of genotypes in both notations, of run files, weights, studies, and images in every format."""
    finished = {reference.job.name: reference.directory for reference in references}
    search, train, small = (finished[name] for name in JOBS)
    nothing = seeds.run_of_nothing(search.parent / "nothing")
    tables = seeds.tables(search.parent / "tables")
    operations = tuple(f"{quote}{name}{quote}".encode() for name in genotypes.OPERATIONS for quote in "\"'")
    found = [genotype.genotype for genotype in map(genotypes.get, genotypes.names())]
    as_json = tuple(genotypes.to_json(genotype).encode() for genotype in found)
    as_text = tuple(genotypes.to_text(genotype).encode() for genotype in found)
    fields = (
        b"normal",
        b"reduce",
        b"normal_concat",
        b"concat",
        b"nodes",
        b"source",
        b"operation",
        b"name",
        b"Genotype",
    )
    language = (*operations, *fields)
    return [
        Reader("genotype-json", read_genotype, genotypes.GenotypeError, as_json, "genotype.json", words=language),
        Reader("genotype-text", read_genotype, genotypes.GenotypeError, as_text, "genotype.txt", words=language),
        _of_run("config-json", read_configuration, train, "config.json"),
        _of_run("saved-search-json", saved.read, search, "config.json", of_folder=True),
        _of_run("env-json", resume, nothing, "env.json"),
        _of_run("metrics-csv", resume, nothing, "metrics.csv"),
        _of_run("record-json", compare.read_training_run, train, record.NAME, of_folder=True),
        replace(_of_run("search-record-json", read_architecture, search, record.NAME), refusal=ValueError),
        _of_run("mixing-json", read_mixing, search, f"{mixing.FOLDER}/epoch_001.json"),
        Reader(
            "checkpoint",
            lambda path: checkpoint.load(path.parent),
            UsageError,
            ((nothing / checkpoint.NAME).read_bytes(),),
            checkpoint.NAME,
            mutate=_sealed_again,
        ),
        Reader(
            "weights",
            weights.load,
            ValueError,
            (seeds.weights_of(small / weights.NAME),),
            weights.NAME,
            mutate=_with_other_header,
        ),
        Reader(
            "latency-table",
            predict_latency,
            ValueError,
            (msgspec.json.encode(seeds.latency_table()),),
            "latency.json",
            words=language,
        ),
        *[_of_run(name.replace(".", "-"), read_tables, tables, name) for name in seeds.TABLES],
        Reader(
            "study-toml", read_study, UsageError, seeds.STUDIES, "study.toml", words=_words(b" ".join(seeds.STUDIES))
        ),
        Reader(
            "study-table",
            table.read,
            UsageError,
            (msgspec.json.encode(seeds.table_of_study()),),
            "table.json",
            words=_words(msgspec.json.encode(seeds.table_of_study()).replace(b":", b" ")),
        ),
        *[
            Reader(f"image-{kind}", partial(read_image, channels=3), DataError, images, f"image.{kind}")
            for kind, images in seeds.images().items()
        ],
    ]


def _of_run(
    name: str, read: Callable[[Path], object], directory: Path, file: str, *, of_folder: bool = False
) -> Reader:
    content = seeds.of_run(directory, file)
    words = _words(content)
    given = (lambda path: read(path.parent)) if of_folder else read
    return Reader(name, given, UsageError, (content,), file, directory, words)


def _words(content: bytes) -> tuple[bytes, ...]:
    """The words of a file, in the same order in each process, which that of a set is not."""
    return tuple(sorted({*content.replace(b",", b" ").split()}))


def read_genotype(path: Path) -> None:
    """Reads a genotype, writes it in both notations, and reads those. Raises AssertionError if one differs."""
    genotype = genotypes.load(path)
    assert genotypes.from_json(genotypes.to_json(genotype)) == genotype
    assert genotypes.from_text(genotypes.to_text(genotype)) == genotype


def predict_latency(path: Path) -> None:
    """Reads a table of latencies and predicts that of a published genotype."""
    LatencyModel.read(str(path)).predicted(genotypes.get("DARTS_V2").genotype)


def read_configuration(path: Path) -> None:
    """Reads a configuration as that of any run, and as that of a training."""
    read_config(path.parent)
    read_run(str(path.parent))


def read_mixing(path: Path) -> None:
    """Reads the mixing weights of a run's epochs. Raises UsageError for those that are left out."""
    _, faults = mixing.read(path.parent.parent)
    if faults:
        raise UsageError(faults[0])


def resume(path: Path) -> None:
    """Resumes a copy of the run that the file belongs to."""
    copy = path.parent.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path.parent, copy)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        seeds.epochs_of_nothing(copy, 1, resume=True)


def read_tables(path: Path) -> None:
    """Reads the tables of a training, and shows what is valid. Raises UsageError for those that are left out."""
    found = tested.read(path.parent, seeds.TABLES_SIZE, 3)
    tested.section(found, None)
    if found.faults:
        raise UsageError(found.faults[0])


def read_study(path: Path) -> None:
    """Plans the study in a file."""
    planning.read(path, {})


def read_architecture(path: Path) -> None:
    """Resolves the directory of the search as an architecture to train."""
    architecture.resolve(str(path.parent), NetworkConfig(), HandmadeConfig())


def _batch(reader: Reader, seed: int, numbers: range, scratch: Path, result: Result) -> None:
    """Reads the inputs in a separate process; if it dies, that is a fault at its current input, and another goes on."""
    journal = scratch / "journal"
    first = numbers.start
    while first < numbers.stop:
        journal.write_bytes(b"")
        left = range(first, numbers.stop)
        ended = processes.call(partial(_read_all, reader, seed, left, scratch, journal), seconds=600)
        first = numbers.stop
        for line in journal.read_text().splitlines():
            told = json.loads(line)
            if told["outcome"] == "begun":
                last = told["number"]
                continue
            result.counts[told["outcome"]] += 1
            result.problems += [{**told["problem"], "number": str(last)}] if told["problem"] else []
            for name, peak in told["peaks"].items():
                result.peaks[name] = max(peak, result.peaks.get(name, 0))
        if ended.code != 0:
            kind = "hang" if ended.code == -signal.SIGALRM else "crash"
            result.counts[kind] += 1
            content = inputs(reader, seed, last)
            result.problem(kind, f"exit code {ended.code}: {ended.stderr.strip()[-300:]}", input=shown(content))
            first = last + 1


def inputs(reader: Reader, seed: int, number: int) -> bytes:
    """The input with a number, which counts through all batches of the reader."""
    random = generator(seed, f"fuzz/{reader.name}/{number}")
    return reader.mutate(random.choice(reader.seeds), random, reader.words)


def _sealed_again(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    """A faulty checkpoint, mostly with a correct digest, because a wrong one would end the reading at once."""
    if random.random() < 0.1:
        return mutated(content, random, words)
    return checkpoint.sealed(mutated(content.partition(b"\n")[2], random, words))


def _with_other_header(content: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    """Weights with a faulty header, mostly of correct length and digest, because wrong ones would end the reading."""
    end = 8 + int.from_bytes(content[:8], "little")
    if random.random() < 0.1:
        return mutated(content[:end], random) + content[end:]
    header = json.loads(content[8:end])
    ours = header["__metadata__"]["optinas"].encode()
    words = _words(ours.replace(b"{", b" "))
    header["__metadata__"]["optinas"] = mutated(ours, random, words).decode(errors="replace")
    header["__metadata__"]["sha256"] = seeds.NO_DIGEST
    text = json.dumps(header).encode()
    if random.random() < 0.2:
        text = mutated(text, random)
    return seeds.sealed_weights(text, content[end:])


def shown(content: bytes) -> str:
    """An input for the report: its first 6,000 bytes in base64."""
    return base64.b64encode(content[:6000]).decode()


def _read_all(reader: Reader, seed: int, numbers: range, scratch: Path, journal: Path) -> None:
    processes.limit_memory(MEMORY + MEMORY // 4)
    # Asks git once, and not for every input.
    described = nas.runs.environment.describe(torch.device("cpu"))
    nas.runs.environment.describe = lambda device: dict(described)
    folder = scratch / "input"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(reader.folder, folder) if reader.folder else folder.mkdir()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even within native code
    with journal.open("ab", buffering=0) as file:
        for number in numbers:
            file.write(json.dumps({"outcome": "begun", "number": number}).encode() + b"\n")
            file.write(json.dumps(_read_one(reader, inputs(reader, seed, number), folder)).encode() + b"\n")


def _read_one(reader: Reader, content: bytes, folder: Path) -> dict[str, object]:
    """The outcome of reading an input, as JSON data; a problem comes with the input, shortened."""
    started, before = time.monotonic(), processes.largest_memory()
    outcome, what = read(reader, content, folder)
    peaks = {"seconds": time.monotonic() - started, "bytes": processes.largest_memory() - before}
    if peaks["bytes"] > MEMORY:
        outcome, what = "memory", f"{peaks['bytes'] / 2**20:.0f} MiB"
    problem = None
    if what:
        small = shortened(content, lambda shorter: read(reader, shorter, folder)[0] == outcome)
        problem = {"kind": outcome, "what": what, "input": shown(small)}
    return {"outcome": outcome, "problem": problem, "peaks": peaks}


def read(reader: Reader, content: bytes, folder: Path) -> tuple[str, str | None]:
    """Reads an input; returns the kind of outcome, and what is wrong, if anything."""
    path = folder / reader.file
    path.write_bytes(content)
    signal.alarm(SECONDS)
    try:
        reader.read(path)
    except reader.refusal as error:
        wrong = message_fault(str(error))
        if wrong is None and type(error) is UnicodeDecodeError:
            wrong = f"a message of Python's: {error}"
        if wrong is None and not any(name in str(error) for name in (reader.file, folder.name)):
            wrong = f"names no file: {str(error)[:300]}"
        return ("message", wrong) if wrong else ("refused", None)
    except Exception as error:
        return f"traceback of {type(error).__name__}", f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
    return "valid", None


def shortened(content: bytes, still: Callable[[bytes], bool], *, tries: int = 60) -> bytes:
    """Shorter content with the same fault, found by leaving out parts."""
    size = len(content) // 2
    while size and tries:
        start = 0
        while start < len(content) and tries:
            shorter = content[:start] + content[start + size :]
            tries -= 1
            if still(shorter):
                content = shorter
            else:
                start += size
        size //= 2
    return content
