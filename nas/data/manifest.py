"""The identity of a data set, which a resumed run must find again: classes, counts, and digests."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from genotypes.messages import reason_of

NAME = "data.json"

#: Up to this many files, a part lists each with 16 bytes; above, it has only counts and a digest.
MOST_FILES = 100_000
_LARGEST = 8_000_000  # bytes of data.json; MOST_FILES in both parts and all names of classes need less
_BYTES = 8


class Contents(NamedTuple):
    """Names of N files, and 8 bytes each that change with their content, or with their size alone."""

    kind: Literal["content", "size"]
    names: Sequence[str]
    contents: Sequence[bytes]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The training or the test images."""

    images: int
    per_class: tuple[int, ...]
    kind: Literal["content", "size", "array"]
    """What digest and entries are computed from: names with contents or with sizes, or the pixels in memory."""
    digest: Annotated[str, Meta(max_length=64)]
    entries: bytes = b""
    """For each file, sorted, 8 bytes for its name and 8 for its content or size; empty for arrays and many files."""

    def files(self) -> dict[bytes, bytes]:
        """Return the digest of each file by that of its name, 8 bytes each."""
        rows = (self.entries[i : i + 2 * _BYTES] for i in range(0, len(self.entries), 2 * _BYTES))
        return {row[:_BYTES]: row[_BYTES:] for row in rows}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data of a run, as `data.json` and its checkpoints hold them."""

    version: Literal[1] = 1
    dataset: str
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    resize: str
    depth: int
    train: Part
    test: Part


def part_of_files(contents: Contents, labels: Tensor, num_classes: int) -> Part:
    """Return the identity of a part that consists of files with labels (N,)."""
    names = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=_BYTES) for name in contents.names)
    rows = sorted(name.digest() + content for name, content in zip(names, contents.contents, strict=True))
    entries = b"".join(rows)
    return Part(
        images=len(rows),
        per_class=_counts(labels, num_classes),
        kind=contents.kind,
        digest=hashlib.sha256(entries).hexdigest(),
        entries=entries if len(rows) <= MOST_FILES else b"",
    )


def part_of_arrays(images: Tensor, labels: Tensor, num_classes: int) -> Part:
    """Return the identity of a part in memory: images (N, C, H, W) uint8 and labels (N,)."""
    digest = hashlib.sha256()
    for chunk in images.split(1024):
        digest.update(chunk.contiguous().numpy().tobytes())
    digest.update(labels.numpy().tobytes())
    return Part(images=len(labels), per_class=_counts(labels, num_classes), kind="array", digest=digest.hexdigest())


def _counts(labels: Tensor, num_classes: int) -> tuple[int, ...]:
    return tuple(torch.bincount(labels, minlength=num_classes).tolist())


def without_files(manifest: Manifest) -> Manifest:
    """Return a manifest without the entries of single files, which is small however many there are."""
    train, test = (msgspec.structs.replace(part, entries=b"") for part in (manifest.train, manifest.test))
    return msgspec.structs.replace(manifest, train=train, test=test)


def to_text(manifest: Manifest) -> str:
    """Return a manifest as JSON."""
    return msgspec.json.encode(manifest).decode()


def from_text(text: str | bytes) -> Manifest:
    """Parse the JSON of a manifest. Raises ValueError if it is not one."""
    return msgspec.json.decode(text, type=Manifest)


def read(folder: Path) -> Manifest:
    """Return the manifest that a run left in its folder. Raises ValueError if there is none that can be read."""
    path = folder / NAME
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
        return from_text(content)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {reason_of(error)}") from error


def changes(before: Manifest, now: Manifest) -> list[str]:
    """Say how the data of a run have changed; an empty list if they have not."""
    told = []
    gone, new = (sorted(set(a) - set(b)) for a, b in ((before.classes, now.classes), (now.classes, before.classes)))
    for names, what in ((gone, "gone"), (new, "new")):
        if names:
            told.append(f"{len(names)} class(es) {what} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})")
    if before.classes != now.classes and not told:
        told.append("the classes are in another order")
    for field in ("image_size", "channels", "resize", "depth"):
        then, is_now = getattr(before, field), getattr(now, field)
        if then != is_now:
            told.append(f"{field.replace('_', ' ')} was {_shown(then)}, is {_shown(is_now)}")
    for name, what in (("train", "training"), ("test", "test")):
        then, is_now = getattr(before, name), getattr(now, name)
        if (then.digest, then.per_class) != (is_now.digest, is_now.per_class):
            told.append(f"{what} images: {_difference(then, is_now)}")
    return told


def _shown(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _difference(before: Part, now: Part) -> str:
    if not (before.entries and now.entries):
        return f"{before.images:,} then, {now.images:,} now" + (
            ", but different" if before.images == now.images else ""
        )
    then, here = before.files(), now.files()
    told = [f"{len(here.keys() - then):,} new", f"{len(then.keys() - here):,} gone"]
    if before.kind == now.kind:
        told.append(f"{_changed(then, here):,} changed")
    return ", ".join(told)


def _changed(then: dict[bytes, bytes], here: dict[bytes, bytes]) -> int:
    return sum(here[name] != then[name] for name in here.keys() & then.keys())


def compare_tests(trained: Manifest, now: Manifest) -> str | None:
    """Say how the test images differ from those of a training run; None if they do not.

    An image counts as trained on if a training image had its name or, if known, its content.
    """
    if trained.test.digest == now.test.digest:
        return None
    told = f"the test images are not those of the training run: {_difference(trained.test, now.test)}"
    if not (trained.train.entries and now.test.entries):
        return told
    trained_on, here = trained.train.files(), now.test.files()
    contents = set(trained_on.values()) if trained.train.kind == now.test.kind == "content" else set[bytes]()
    seen = sum(name in trained_on or content in contents for name, content in here.items())
    return f"{told}; {seen:,} of {now.test.images:,} were trained on"
