"""Serves an exported network without PyTorch: `python serve.py network.onnx photo.jpg ...` prints class, probability.

Needs onnxruntime, numpy and Pillow (HEIC files: pillow_heif too, registered). `pixels_of` reads a file as the training
reads it, so that the probabilities are those of `optinas-predict`; what the training refuses is refused here.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
told = session.get_modelmeta().custom_metadata_map
classes, (H, W), depth = json.loads(told["classes"]), json.loads(told["image_size"]), int(told["depth"])


def eight_bits(image: Image.Image) -> Image.Image:
    """Turned as the camera was held, on white where it is transparent, grey or RGB as the network expects."""
    tags = getattr(image, "tag_v2", {})  # of TIFF: bits a sample, and the largest sample
    if image.mode in ("RGB", "RGBA") and np.max(tags.get(258, 0)) > 8 and 0 < np.max(tags.get(281, 0)) < 2**15:
        raise ValueError("colours of 16 bits that do not use them all; convert it to 8 bits")
    image.load()  # a PNG may state its orientation after its pixels
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known; convert it to 8 bits")
    if image.mode.startswith("I"):  # more than 8 bits: the upper 8 of those that the training images use
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**depth:
            raise ValueError(f"pixels outside of 0 to {2**depth - 1}, which the training images are within")
        image = Image.fromarray((values >> (depth - 8)).astype(np.uint8))
    elif image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), straight)
    return image.convert("L" if told["channels"] == "1" else "RGB")


def pixels_of(path: str) -> np.ndarray:
    """An image file as the network expects it, (1, C, H, W) float32 in 0..1."""
    with Image.open(path) as file:
        if told["resize"] == "fit":  # a large JPEG is decoded smaller, at twice the network's size or more
            file.draft(None, (2 * max(H, W), 2 * max(H, W)))
        image = eight_bits(file)
    if told["resize"] == "crop":  # the shorter side to 256/224 of the network's; then the centre, on black if smaller
        short = round(min(H, W) * 256 / 224)
        w, h = (short * side // min(image.size) for side in image.size)
        left, top = (round((a - b) / 2) if a > b else -((b - a) // 2) for a, b in ((w, W), (h, H)))
        image = image.resize((w, h), Image.Resampling.BILINEAR).crop((left, top, left + W, top + H))
    elif image.size != (W, H):
        image = ImageOps.fit(image, (W, H), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32).reshape(1, H, W, -1).transpose(0, 3, 1, 2) / 255


for path in sys.argv[2:]:
    (logits,) = session.run(["logits"], {"images": pixels_of(path)})[0]
    shares = np.exp(logits - logits.max())
    print(f"{path}: {classes[logits.argmax()]} {shares.max() / shares.sum():.4f}")
