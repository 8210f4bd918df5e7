"""Image folders: layouts, sizes, kinds of files, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import DataConfig, DataError, ImageData, load
from nas.data import datasets as registry
from nas.data.folder import TEST_PORTION, _number, read_folder
from nas.data.pixels import read_image, survey
from nas.data.stream import train_transform
from nas.data.view import View, eval_transform

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def write(path: Path, *, size: tuple[int, int] = (8, 8), mode: str = "RGB", color: int = 100) -> Path:
    """Write an image of the given width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def write_classes(root: Path, counts: dict[str, int], *, size: tuple[int, int] = (8, 8)) -> None:
    for name, count in counts.items():
        for number in range(count):
            write(root / name / f"{number}.png", size=size)


def decode(paths: list[str], image_size: tuple[int, int], channels: int) -> torch.Tensor:
    return View(channels, image_size).decode(paths)[0]


def load_folder(root: Path, **fields: object) -> ImageData:
    return load(DataConfig(dataset="folder", data=str(root), **fields))


def test_some_of_the_files_are_read(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"ant": 6, "bee": 4})
    write_classes(tmp_path / "test", {"ant": 2, "bee": 2})
    whole, data = load_folder(tmp_path), load_folder(tmp_path, train_images=5, test_images=2)
    assert [torch.bincount(labels).tolist() for labels in (data.train_labels, data.test_labels)] == [[3, 2], [1, 1]]
    assert data.manifest() != whole.manifest()


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_given_split_is_kept(tmp_path: Path, test_name: str) -> None:
    write_classes(tmp_path / "train", {"bee": 3, "ant": 2})
    write_classes(tmp_path / test_name, {"bee": 1})
    data = load_folder(tmp_path)
    assert data.classes == ("ant", "bee")
    assert data.num_classes == 2
    assert data.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert data.test_labels.tolist() == [1]


def test_test_folder_without_labels_is_passed_over_for_val(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"ant": 2, "bee": 2})
    write(tmp_path / "test" / "unlabelled.png")
    write_classes(tmp_path / "val", {"ant": 1, "bee": 1})
    assert load_folder(tmp_path).test_labels.tolist() == [0, 1]


def images_to_test_on(root: Path, *, split_seed: int = 0) -> set[str]:
    return set(read_folder(root, split_seed).test.names)


def test_one_tree_is_split_by_its_own_seed(tmp_path: Path) -> None:
    for number in range(400):
        path = tmp_path / ("ant" if number < 200 else "bee") / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files = read_folder(tmp_path, 0)
    assert len(files.test.paths) + len(files.train.paths) == 400
    assert not set(files.test.names) & set(files.train.names)
    assert images_to_test_on(tmp_path) != images_to_test_on(tmp_path, split_seed=1)


def test_no_other_file_moves_a_file_between_training_and_test(tmp_path: Path) -> None:
    for number in range(60):
        for name in ("ant", "bee"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}.png").touch()
    before = images_to_test_on(tmp_path)
    for number in range(0, 60, 7):
        (tmp_path / "ant" / f"{number}.png").rename(tmp_path / "ant" / f"renamed {number}.png")
        (tmp_path / "ant" / f"{number}.added.png").touch()
        (tmp_path / "bee" / f"{number}.png").unlink()
    (tmp_path / "cat").mkdir()
    for number in range(9):
        (tmp_path / "cat" / f"{number}.png").touch()
    everything = read_folder(tmp_path, 0)
    stayed = set(everything.train.names) | set(everything.test.names)
    after = set(everything.test.names)
    old = {f"/{name}/{number}.png" for name in ("ant", "bee") for number in range(60)}
    assert after & old == before & stayed


@pytest.mark.parametrize("streamed", [False, True])
def test_held_out_files_are_trained_on_no_more_and_stay_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setattr(registry, "MEMORY_LIMIT", 0 if streamed else registry.MEMORY_LIMIT)

    def held_out() -> set[str]:
        images = load_folder(tmp_path, workers=0)
        assert images.streamed is streamed
        assert images.train_names is not None
        assert images.test_names is not None
        kept, held = images.hold_out(0.3)
        assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(images.train_labels)))
        for part in (kept, held):
            assert torch.bincount(images.train_labels[part], minlength=2).min() > 0
        return {images.train_names[index] for index in held.tolist()} - set(images.test_names)

    write_classes(tmp_path, {"ant": 30, "bee": 20})
    before = held_out()
    assert 8 <= len(before) <= 20  # of about 40 to train on
    write_classes(tmp_path, {"ant": 40, "bee": 20})
    assert {name for name in held_out() if int(Path(name).stem) < (30 if "ant" in name else 20)} == before


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_class_of_two_has_images_in_both_parts(tmp_path: Path, count: int) -> None:
    for label in range(40):
        (tmp_path / str(label)).mkdir()
        for number in range(count):
            (tmp_path / str(label) / f"{number}.png").touch()
    files = read_folder(tmp_path, 0)
    for part in (files.train, files.test):
        assert torch.bincount(part.labels, minlength=40).min() > 0


def test_the_split_is_the_same_on_every_system_and_for_ever() -> None:
    chosen = [number for number in range(10_000) if _number("0", f"/ant/{number}.png") < TEST_PORTION]
    assert 1900 < len(chosen) < 2100
    assert chosen[:6] == [5, 9, 10, 13, 14, 18]


def test_class_called_train_is_a_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"car": 5, "train": 5})
    assert load_folder(tmp_path).classes == ("car", "train")


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    (tmp_path / ".cache").mkdir()
    (tmp_path / "ant" / "._0.png").write_bytes(b"not an image")
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    data = load_folder(tmp_path)
    assert len(data.train_labels) + len(data.test_labels) == 10
    assert "left out: 2 hidden or system entries" in data.found[1]
    assert "left out: 1 .txt files, such as" in data.found[2]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(7, 5), (7, 5), (7, 5)], (5, 7)),  # PIL's width x height; ours is height x width
        ([(7, 5), (5, 7), (9, 9)], (5, 5)),
        ([(30, 20), (11, 40), (9, 9)], (11, 11)),
    ],
)
def test_size_is_the_common_one_or_the_median_short_side(
    tmp_path: Path, sizes: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    paths = [str(write(tmp_path / f"{number}.png", size=size)) for number, size in enumerate(sizes)]
    assert survey(paths)[0] == expected
    assert decode(paths, expected, 3).shape == (3, 3, *expected)


def test_image_size_overrides(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 5, "bee": 5}, size=(9, 13))
    assert load_folder(tmp_path).image_size == (13, 9)
    data = load_folder(tmp_path, image_size=6)
    assert data.image_size == (6, 6)
    assert next(data.test_loader().epoch(0))[0].shape == (len(data.test_labels), 3, 6, 6)


def test_larger_image_is_scaled_and_its_centre_kept(tmp_path: Path) -> None:
    pixels = np.zeros((16, 48), dtype=np.uint8)
    pixels[:, 14:34] = 200  # the middle 16 columns, and two more on either side for the scaling to blend in
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (decode([str(tmp_path / "wide.png")], (8, 8), 1) == 200).all()


@pytest.mark.parametrize(("modes", "channels"), [(["L", "1", "LA", "I;16"], 1), (["L", "RGB"], 3), (["P", "L"], 3)])
def test_channels(tmp_path: Path, modes: list[str], channels: int) -> None:
    paths = [str(write(tmp_path / f"{number}.png", mode=mode)) for number, mode in enumerate(modes)]
    assert survey(paths)[1] == channels
    assert decode(paths, (8, 8), channels).shape == (len(modes), channels, 8, 8)


def image_of(mode: str, color: object) -> Image.Image:
    return Image.new(mode, (4, 4), color)


def palette_image(**info: object) -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (image_of("RGB", (1, 2, 3)), "png", (1, 2, 3)),
        (image_of("RGBA", (1, 2, 3, 255)), "png", (1, 2, 3)),
        (image_of("RGBA", (1, 2, 3, 0)), "png", (255, 255, 255)),
        (image_of("LA", (0, 0)), "png", (255, 255, 255)),
        (palette_image(), "png", (10, 20, 30)),
        (palette_image(transparency=1), "png", (255, 255, 255)),
        (image_of("CMYK", (255, 0, 0, 0)), "tiff", (0, 255, 255)),
        (image_of("1", 1), "png", (255, 255, 255)),
        (image_of("L", 77), "webp", (77, 77, 77)),
        (Image.fromarray(np.full((4, 4), 0x80FF, dtype=np.uint16)), "png", (128, 128, 128)),
        (Image.fromarray(np.full((4, 4), 0x80FF, dtype=np.int32)), "tiff", (128, 128, 128)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_kind_of_image_is_brought_to_eight_bits(
    tmp_path: Path, image: Image.Image, kind: str, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"image.{kind}"
    image.save(path, **image.info)
    assert np.abs(np.array(read_image(str(path), 3)).astype(int) - expected).max() <= 1
    grey = np.array(read_image(str(path), 1))
    assert grey.shape == (4, 4)
    if len(set(expected)) == 1:
        assert np.abs(grey.astype(int) - expected[0]).max() <= 1


def test_orientation_of_the_camera_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: what was left is above
    path = str(tmp_path / "turned.jpg")
    image.save(path, exif=exif)
    assert survey([path])[0] == (16, 8)
    pixels = decode([path], (16, 8), 1)[0, 0]
    assert pixels[:7].min() > 200
    assert pixels[9:].max() < 50


def test_large_jpeg_is_decoded_smaller_but_never_too_small(tmp_path: Path) -> None:
    path = write(tmp_path / "large.jpg", size=(640, 400))
    assert read_image(str(path), 3, cover=32).size == (160, 100)
    assert read_image(str(path), 3, cover=300).size == (640, 400)


def test_folder_beyond_the_memory_limit_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path, {"ant": 5, "bee": 5})
    assert not load_folder(tmp_path).streamed
    monkeypatch.setattr(registry, "MEMORY_LIMIT", 10 * 3 * 8 * 8 - 1)
    assert load_folder(tmp_path).streamed
    with pytest.raises(DataError, match="--crop-padding is for data in memory"):
        load_folder(tmp_path, crop_padding=1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_streamed_views_have_the_size_asked_for(mode: str, size: tuple[int, int]) -> None:
    image = Image.new(mode, (2 * size[1], 2 * size[0]), 100)
    for transform in (train_transform(size, flip=True), eval_transform(size)):
        view = transform(image)
        assert (view.height, view.width, view.mode) == (*size, mode)


def test_streamed_images_without_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path, {"ant": 6, "bee": 6})
    monkeypatch.setattr(registry, "MEMORY_LIMIT", 1)
    data = load_folder(tmp_path, augment=False, workers=0, batch_size=8)
    assert data.streamed
    loader = data.train_loader(seed=0)
    views = [sorted(torch.cat([x for x, _ in loader.epoch(epoch)]).flatten(1).tolist()) for epoch in (0, 1)]
    assert views[0] == views[1]


def test_test_view_is_the_centre_of_the_image() -> None:
    pixels = np.zeros((256, 512), dtype=np.uint8)
    pixels[16:240, 144:368] = 200
    assert (np.array(eval_transform((224, 224))(Image.fromarray(pixels))) == 200).all()


# What a user can get wrong: one line that names the place.


def expect_error(root: Path, message: str, **fields: object) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_folder(root, **fields)
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    expect_error(tmp_path / "nowhere", "cannot read the folder .*nowhere.*No such file.*pass a folder of class folders")


def test_file_instead_of_a_folder(tmp_path: Path) -> None:
    expect_error(write(tmp_path / "image.png"), "cannot read the folder .*image.png.*pass a folder of class folders")


def test_folder_without_classes(tmp_path: Path) -> None:
    write(tmp_path / "image.png")
    expect_error(tmp_path, "has no class folders; two or more")


def test_single_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 3})
    expect_error(tmp_path, "only one class folder, 'ant'")


@pytest.mark.parametrize("part", ["train", "test"])
def test_class_without_images(tmp_path: Path, part: str) -> None:
    for each in ("train", "test"):
        write_classes(tmp_path / each, {"ant": 2, "bee": 2})
    for image in (tmp_path / part / "bee").iterdir():
        image.unlink()
    expect_error(tmp_path, f"{part}.bee has no readable images")


def test_class_that_only_the_test_images_have(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"ant": 2, "bee": 2})
    write_classes(tmp_path / "test", {"ant": 2, "wasp": 2})
    expect_error(tmp_path, r"test.wasp is a class without training images.*\(known: ant, bee\)")


def test_train_without_test(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"ant": 2, "bee": 2})
    expect_error(tmp_path, "neither test/ nor val/")


def test_of_many_unreadable_images_the_first_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 4, "bee": 14})
    for number in range(12):
        (tmp_path / "bee" / f"{number}.png").write_bytes(b"")
    told = read_folder(tmp_path, 0, skip_unreadable=True).left_out
    assert len(told) == 11
    assert told[-1] == "left out: 2 more images that cannot be read"
    for path in (tmp_path / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="bee has no readable images .*cannot read the image"):
        read_folder(tmp_path, 0, skip_unreadable=True)


def test_class_of_one_image_in_one_tree(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 9, "bee": 1})
    expect_error(tmp_path, "class 'bee' has a single image")


@pytest.mark.parametrize(
    ("damage", "workers"),
    [("text", None), ("truncated", None), ("float", None), ("truncated", 0), ("truncated", 1)],
)
def test_unreadable_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, workers: int | None
) -> None:
    """In memory (`workers` is None) and streamed."""
    write_classes(tmp_path / "train", {"ant": 4, "bee": 4})
    write_classes(tmp_path / "test", {"ant": 1, "bee": 1})
    bad = tmp_path / "train" / "bee" / "3.png"
    if damage == "text":
        bad.write_text("not an image")
    elif damage == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(bad)
        bad.write_bytes(bad.read_bytes()[:-60])
    else:
        bad.unlink()
        bad = bad.with_suffix(".tiff")
        Image.new("F", (8, 8)).save(bad)
    skipping = load_folder(tmp_path, skip_unreadable=True)
    assert (len(skipping.train_labels), len(skipping.test_labels)) == (7, 2)
    assert skipping.left_out[0].startswith(f"left out: cannot read the image {bad} (")
    assert skipping.manifest().train.images == 7
    if workers is None:
        expect_error(tmp_path, "cannot read the image .*bee.3")
        return
    monkeypatch.setattr(registry, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(registry, "STATISTICS_SAMPLE", 4)  # every other image: not the bad one
    loader = load_folder(tmp_path, workers=workers, batch_size=2).train_loader(seed=0)
    message = ""
    # Not pytest.raises, which would keep the loader and its workers alive with the error.
    try:
        list(loader.epoch(0))
    except DataError as error:
        message = str(error)
    assert message.startswith(f"cannot read the image {bad}")
    assert "\n" not in message
