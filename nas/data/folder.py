"""Which files of a folder are images of which class and part. docs/DATA.md has the rules for users."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas.data.errors import DataError
from nas.data.pixels import extensions, undecodable

LAYOUT = "a folder of class folders, or train/ and test/ (or val/) with class folders in each"

#: Share of the images to test on if a folder has no test part.
TEST_PORTION = 0.2

#: Files that cannot be decoded and are left out: of so many, it is said which they are and why.
_NAMED = 10

#: The spellings of parts, in lower case and without hyphens, underscores and spaces.
_KINDS = {
    "train": r"train(ing)?(set|data|images)?",
    "test": r"test(ing)?(set|data|images)?",
    "val": r"val(id|idation)?(set|data|images)?",
}
#: What systems and programs leave in folders, in lower case; names that begin with a dot are skipped too.
_SYSTEM = {
    *("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "__pycache__"),
}
_HEIF = {".heic", ".heif", ".hif"}


@dataclass(frozen=True)
class ImageFiles:
    """Labelled files: N paths, their labels, (N,) int64, and names that do not depend on where the folder is."""

    paths: list[str]
    labels: Tensor
    names: list[str]

    def __getitem__(self, indices: Tensor) -> "ImageFiles":
        rows = indices.tolist()
        return ImageFiles([self.paths[i] for i in rows], self.labels[indices], [self.names[i] for i in rows])


@dataclass(frozen=True)
class Folder:
    """The images of a folder in its two parts, and a line for each reason for which files were left out."""

    classes: list[str]
    train: ImageFiles
    test: ImageFiles
    left_out: list[str]


def shown(name: str) -> str:
    """Return a printable form of a name: bytes that are not UTF-8 become a backslash, x and two digits."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_folder(root: Path, split_seed: int, *, skip_unreadable: bool = False) -> Folder:
    """Find the images of a folder of either layout.

    Args:
        root: the folder.
        split_seed: decides which images are for testing, if there is no part for that.
        skip_unreadable: decode every image, and leave out those that cannot be decoded.

    Raises:
        DataError: the folder cannot be read, has neither layout or an ambiguous one, or has classes without images.
    """
    top = Lister()
    parts = _parts(root, top)
    if parts is not None:
        return read_parts(*parts, top.beside(parts), skip_unreadable=skip_unreadable)
    lister = Lister(root, skip_unreadable=skip_unreadable)
    classes = lister.classes(root)
    files = lister.images(root, classes)
    in_test = chosen_for_test(files, classes, split_seed)
    return Folder(classes, files[(~in_test).nonzero()[:, 0]], files[in_test.nonzero()[:, 0]], lister.report())


def read_parts(train: Path, test: Path, left_out: Sequence[str] = (), *, skip_unreadable: bool = False) -> Folder:
    """Find the images of a training folder and a test folder, each with class folders.

    Raises:
        DataError: a folder cannot be read, has no classes or empty ones, or the classes of the two do not match.
    """
    if _within(os.path.realpath(test), os.path.realpath(train)):
        raise DataError(
            f"{test} is a link into {train}, so the test would use training images; give it images of its own"
        )
    lister = Lister(train, test, skip_unreadable=skip_unreadable)
    classes = lister.classes(train)
    training = lister.images(train, classes, "train")
    return Folder(classes, training, lister.images(test, classes, "test"), [*left_out, *lister.report()])


def find_images(folder: str) -> tuple[list[str], list[str]]:
    """List the image files of a folder and of the folders in it, whatever they are called.

    Returns:
        Their paths, sorted, and a line for each reason for which others were left out.

    Raises:
        DataError: a folder cannot be read.
    """
    lister = Lister(Path(folder), advice="name a folder that can be read")
    return sorted(lister.files_below(folder)), lister.report()


def _parts(root: Path, top: "Lister") -> tuple[Path, Path] | None:
    """Return the training and the test folder; None for one tree of class folders."""
    top.subfolders(root)
    kinds = {kind: [n for n in top.names if re.fullmatch(p, _plain(n))] for kind, p in _KINDS.items()}
    nested = {kind: [n for n in names if Lister(root / n).subfolders(root / n)] for kind, names in kinds.items()}
    for names in nested.values():
        if len(names) > 1:
            told = " and ".join(f"{shown(name)}/" for name in names)
            raise DataError(f"{root} has {told}, which name the same part; keep one of them")
    tests = [*nested["test"], *nested["val"]]
    if nested["train"]:
        train = nested["train"][0]
        if not tests:
            raise DataError(
                f"{root} has {train}/ but neither test/ nor val/ with class folders; add one, "
                f"or pass the folder {root / train} to keep a fifth of it for testing"
            )
        return root / train, root / tests[0]
    if tests:
        raise DataError(
            f"{root} has {tests[0]}/ but no train/ with class folders; add it, or pass the folder {root / tests[0]} "
            "to split its images"
        )
    if kinds["train"] and kinds["test"] + kinds["val"]:
        raise DataError(
            f"{root} has {kinds['train'][0]}/ and {(kinds['test'] + kinds['val'])[0]}/ without class folders in them; "
            "put the images of each class into a folder of its own there, or rename them if they are classes"
        )
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


class Lister:
    """Lists folders, and counts what it leaves out.

    Args:
        roots: the folders that are read completely.
        advice: what to do where a folder cannot be read.
        skip_unreadable: whether `images` leaves out what cannot be decoded.
    """

    def __init__(self, *roots: Path, advice: str = f"pass {LAYOUT}", skip_unreadable: bool = False) -> None:
        self._advice = advice
        self._skip_unreadable = skip_unreadable
        self._unreadable: list[str] = []
        self.names: list[str] = []
        self._reading = [os.path.realpath(root) for root in roots]
        self._files: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def subfolders(self, folder: Path) -> dict[str, str]:
        """Return the paths of the subfolders that count, by their name in Unicode's form NFC, sorted.

        Raises:
            DataError: the folder cannot be read, or two names differ only in their Unicode form.
        """
        found: dict[str, str] = {}
        for entry in self._entries(str(folder)):
            if self._is_folder(entry):
                name = unicodedata.normalize("NFC", entry.name)
                if name in found:
                    raise DataError(
                        f"{folder} has two folders called {shown(name)}, in different Unicode forms; merge them"
                    )
                found[name] = entry.path
            elif not entry.is_dir():
                self._leave_out(entry, "files outside class folders")
        self.names = sorted(found)
        return {name: found[name] for name in self.names}

    def classes(self, folder: Path) -> list[str]:
        """Return the names of the class folders of a training folder, sorted.

        Raises:
            DataError: there are fewer than two, or one is not UTF-8.
        """
        classes = list(Lister(folder).subfolders(folder))
        if len(classes) < 2:
            found = f"only one class folder, '{shown(classes[0])}'" if classes else "no class folders"
            raise DataError(f"{folder} has {found}; two or more are needed: pass {LAYOUT}")
        for name in classes:
            if shown(name) != name:
                raise DataError(f"the class folder '{shown(name)}' in {folder} is not named in UTF-8; rename it")
        return classes

    def images(self, folder: Path, classes: Sequence[str], part: str = "") -> ImageFiles:
        """List the images of the class folders, with the position of their class in `classes` as label.

        Raises:
            DataError: there are no class folders, one of them is not among `classes`, or one has no images.
        """
        present = self.subfolders(folder)
        if not present:
            raise DataError(f"{folder} has no class folders; pass {LAYOUT}")
        if unknown := sorted(set(present) - set(classes)):
            raise DataError(
                f"{folder / shown(unknown[0])} is a class without training images; "
                f"add it there or remove it here (known: {_shortened(classes)})"
            )
        paths, labels, names = [], [], []
        for name, path in present.items():
            found = self._readable(list(self.files_below(path)))
            if not found:
                kinds = "" if not (left_out := self.report()) else f" ({'; '.join(left_out)})"
                raise DataError(f"{folder / name} has no readable images{kinds}; add some (.jpg .png ...) or remove it")
            paths += found
            labels += [classes.index(name)] * len(found)
            names += [_name(part, name, os.path.relpath(file, path)) for file in found]
        return ImageFiles(paths, torch.tensor(labels), names)

    def _readable(self, paths: list[str]) -> list[str]:
        """Return the files without those that cannot be decoded, if these are to be left out."""
        faults = undecodable(paths) if self._skip_unreadable else {}
        self._unreadable += faults.values()
        return [path for path in paths if path not in faults]

    def files_below(self, folder: str) -> Iterator[str]:
        """Yield the image files of a folder, then those of the folders in it.

        Raises:
            DataError: one of the folders cannot be read.
        """
        folders = [folder]
        while folders:
            inner = []
            for entry in self._entries(folders.pop()):
                if entry.is_dir():
                    inner += [entry.path] if self._is_folder(entry) else []
                elif self._is_image(entry):
                    yield entry.path
            folders += reversed(inner)

    def report(self) -> list[str]:
        """Return a line for each of the first files that cannot be decoded, and for each other reason an example."""
        broken, more = self._unreadable[:_NAMED], len(self._unreadable[_NAMED:])
        told = [f"left out: {fault}" for fault in broken]
        told += [f"left out: {more:,} more images that cannot be read"] if more else []
        lines = [
            f"left out: {count:,} {reason}, such as {shown(self._examples[reason])}"
            for reason, count in self._counts.most_common(12)
        ]
        rest = len(self._counts) - len(lines)
        return told + lines + ([f"left out: files of {rest:,} more kinds"] if rest else [])

    def beside(self, parts: Sequence[Path]) -> list[str]:
        """Return the lines about what was left out next to the parts of a folder."""
        read = {os.path.basename(part) for part in parts}
        others = [shown(name) for name in self.names if name not in read]
        told = [f"left out: {', '.join(others[:10])} beside {' and '.join(sorted(read))}"] if others else []
        return told + self.report()

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Yield the entries that are not left out because of their names, in order."""
        try:
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"cannot read the folder {folder} ({reason}); {self._advice}") from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
                self._leave_out(entry, "hidden or system entries")
            else:
                yield entry

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        if not entry.is_dir():
            return False
        if not entry.is_symlink():
            return True
        target = os.path.realpath(entry.path)
        # Reading it would count images twice, or never end.
        if any(_within(target, read) or _within(read, target) for read in self._reading):
            self._leave_out(entry, "links to folders that are read anyway")
            return False
        if self._reading:
            self._reading.append(target)
        return True

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        ending = os.path.splitext(entry.name)[1].lower()
        if ending not in extensions():
            extra = " (the extra heif reads them)" if ending in _HEIF else ""
            self._leave_out(entry, f"{shown(ending) or 'unnamed'} files{extra}")
        elif entry.is_symlink() and not os.path.exists(entry.path):
            self._leave_out(entry, "broken links")
        elif not entry.is_file():
            self._leave_out(entry, "entries that are not files")
        elif entry.is_symlink() and self._is_known(os.path.realpath(entry.path)):
            self._leave_out(entry, "links to files that are read anyway")
        else:
            return True
        return False

    def _is_known(self, target: str) -> bool:
        if target in self._files or any(_within(target, read) for read in self._reading):
            return True
        self._files.add(target)
        return False

    def _leave_out(self, entry: os.DirEntry[str], reason: str) -> None:
        self._counts[reason] += 1
        self._examples.setdefault(reason, entry.path)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _name(part: str, label: str, inner: str) -> str:
    """Return what identifies a file: its part, class and path there, the same on every system."""
    return "/".join([part, label, unicodedata.normalize("NFC", inner).replace(os.sep, "/")])


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def chosen_for_test(files: ImageFiles, classes: Sequence[str], seed: int) -> Tensor:
    """Choose about a fifth of the files for testing, (N,) bool, as `chosen_by_name` does."""
    return chosen_by_name(files.names, files.labels, classes, portion=TEST_PORTION, key=str(seed))


def chosen_by_name(names: Sequence[str], labels: Tensor, classes: Sequence[str], *, portion: float, key: str) -> Tensor:
    """Choose about a portion of the files, each by its name alone, so that adding files moves no other.

    There are two exceptions: if none of a class would be chosen, its file with the lowest number is; if all would be,
    its file with the highest number is not.

    Args:
        names: of N files.
        labels: (N,) int64.
        classes: names of the classes, for the error.
        portion: between 0 and 1.
        key: other keys choose independently.

    Returns:
        (N,) bool.

    Raises:
        DataError: a class has a single image.
    """
    numbers = torch.tensor([_number(key, name) for name in names], dtype=torch.float64)
    chosen = numbers < portion
    for label, name in enumerate(classes):
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) < 2:
            raise DataError(f"class '{name}' has a single image, which cannot be split; give it two or more")
        if not chosen[rows].any():
            chosen[rows[numbers[rows].argmin()]] = True
        if chosen[rows].all():
            chosen[rows[numbers[rows].argmax()]] = False
    return chosen


def _number(key: str, name: str) -> float:
    """Return a pseudorandom number from 0 to 1 that depends on the key and a name."""
    text = f"{key}/{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / 2**48
