"""Read the pictures of layers, as the viewer of the report does."""

import base64
import io

import numpy as np
from PIL import Image

from pipeline_lib.stages.layers import prepare_layers


def rgba(uri):
    """Return the pixels of a data URI, (y, x, 4) uint8."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))


def cells_of(uri, bits):
    """Return the number of the cell of each pixel of a picture of `cells_uri`, bit by bit."""
    pixels = rgba(uri).astype(np.int64)
    numbers = sum((pixels[..., k % 3] >> k // 3 & 1) << k for k in range(3 * bits))
    return np.where(pixels[..., 3] > 0, numbers, 0)


def layers_of(folder, dataset="dataset.h5", output="layers.json", weight_map=None, causes=None, **options):
    """Prepare the layers of the files of a folder, with a volume `v` of split `test`."""
    given = {"volume": "v", "split": "test", "network": "unet", "pixels": 10**6} | options
    made_from = folder / "prediction.h5", folder / "segmentation.h5"
    prepare_layers(folder / dataset, weight_map, *made_from, causes, folder / output, **given)
    return folder / output
