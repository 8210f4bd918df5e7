"""Pages that show a run: `optinas-report RUN`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import spaces
from genotypes.atomic import write_atomically
from genotypes.config import Config, IsPath, NoneMeans
from nas import cli
from nas.errors import UsageError, users_mistakes
from nas.report import run


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Write a page that shows a search or a training, finished or not: one HTML file that needs nothing else."""

    run: Annotated[str, IsPath, tyro.conf.Positional]
    """Directory of the run."""
    out: Annotated[str | None, IsPath, NoneMeans("report.html in the directory")] = None
    """File to write."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own to import first, because they declare operations that a genotype has."""


def write_report(directory: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the page of a run, to its report.html if no other file is named; returns that file.

    Raises UsageError where there is nothing to show, or the file cannot be written.
    """
    spaces.load_installed()  # whose operations a genotype may have
    target = Path(directory) / run.NAME if out is None else Path(out)
    text = run.of_run(Path(directory))
    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be written ({error.strerror}); choose another --out") from error
    return target


def command(argv: list[str]) -> dict[str, Any]:
    """Parses the command line, writes the page and returns where it is."""
    config = cli.parse(ReportConfig, argv, description=__doc__ or "")
    with users_mistakes():
        spaces.import_modules(config.operations_from)
    return {"report": str(write_report(config.run, config.out))}


def main() -> None:
    """The console command `optinas-report`."""
    cli.run(command)


if __name__ == "__main__":
    main()
