"""A run and its data: what it records about them, and whether they are still the same."""

from __future__ import annotations

import json
from pathlib import Path

from genotypes.messages import one_line
from nas.data import ImageData, manifest
from nas.data.manifest import Manifest
from nas.errors import UsageError
from nas.runs.directory import Directory


class SameData:
    """Refuses to resume on images other than those a run began with.

    Track it before the modules: its message should come before an error about the size of a tensor.
    """

    def __init__(self, images: ImageData) -> None:
        self._images = images
        self._manifest = images.manifest()

    def state_dict(self) -> dict[str, str]:
        """The manifest of the images, as JSON text."""
        return {"manifest": manifest.to_text(self._manifest)}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Compares a saved manifest with that of the images. Raises UsageError if they differ, and says how."""
        if told := manifest.changes(manifest.from_text(state["manifest"]), self._manifest):
            raise UsageError(
                f"the images are not those that the run began with: {'; '.join(told)}; restore them, or start a new "
                "run in another --run-dir"
            )

    @property
    def summary(self) -> Manifest:
        """The manifest for the run's record, without single files."""
        return manifest.without_files(self._manifest)

    def report(self, directory: Directory) -> None:
        """Logs what was found, and writes the manifest to the run's directory."""
        for line in self._images.found:
            directory.log(one_line(line))
        directory.write_json(manifest.NAME, json.loads(manifest.to_text(self._manifest)))


def report_test_images(images: ImageData, trained: Path) -> None:
    """Prints what was found, and how the test images differ from those of the run in the directory `trained`."""
    for line in images.found:
        print(one_line(line))
    try:
        told = manifest.compare_tests(manifest.read(trained), images.manifest())
    except ValueError as error:
        told = f"cannot tell whether the test images are those of the training run: {error}"
    if told:
        print(one_line(f"note: {told}"))
