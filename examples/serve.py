"""Serves an exported network without PyTorch: `python serve.py network.onnx photo.jpg ...` prints class, probability.

Needs onnxruntime, numpy and Pillow. Images of every kind come to the network as in `TrainedNetwork.predict`.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
told = session.get_modelmeta().custom_metadata_map
classes, (H, W) = json.loads(told["classes"]), json.loads(told["image_size"])
for path in sys.argv[2:]:
    with Image.open(path) as image:
        if told["resize"] == "fit":
            image.draft(None, (2 * max(H, W), 2 * max(H, W)))  # a large JPEG is decoded smaller, which is faster
        image.load()
    image = ImageOps.exif_transpose(image) if "exif" in image.info else image
    if image.mode.startswith("I"):  # grey, with more than 8 bits
        image = Image.fromarray((np.asarray(image) >> int(told["depth"]) - 8).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("L" if told["channels"] == "1" else "RGB")
    if told["resize"] == "crop":  # the shorter side to 256/224 of the network's, before the centre is kept
        scale = round(min(H, W) * 256 / 224) / min(image.size)
        image = image.resize([int(side * scale + 1e-6) for side in image.size], Image.Resampling.BILINEAR)
        left, top = round((image.width - W) / 2), round((image.height - H) / 2)
        image = image.crop((left, top, left + W, top + H))
    image = ImageOps.fit(image, (W, H), Image.Resampling.BILINEAR)  # changes nothing where the size is right
    pixels = np.asarray(image, np.float32).reshape(1, H, W, -1).transpose(0, 3, 1, 2) / 255
    (logits,) = session.run(["logits"], {"images": pixels})[0]
    shares = np.exp(logits - logits.max())
    print(f"{path}: {classes[logits.argmax()]} {shares.max() / shares.sum():.6f}")
