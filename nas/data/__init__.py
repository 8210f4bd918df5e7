"""Data sets, augmentation and loaders."""

from nas.data.config import DataConfig
from nas.data.datasets import dataset, load
from nas.data.errors import DataError
from nas.data.images import Batch, ImageData, Loader
from nas.data.view import View

__all__ = ["Batch", "DataConfig", "DataError", "ImageData", "Loader", "View", "dataset", "load"]
