"""Export stage: write a trained model for bioimage.io, or as ONNX."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import logging
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from pipeline_lib import provenance
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.figures.colouring import raw_picture
from pipeline_lib.networks import modelfile
from pipeline_lib.networks.exporting import CellProbability, Sizes, architecture_source
from pipeline_lib.networks.model import Model
from pipeline_lib.pages.methods import REFERENCES
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.log import several
from pipeline_lib.runtime.types import Json

#: Version of the format of bioimage.io.
FORMAT = "0.5.4"
#: Version of the operators of ONNX.
OPSET = 18


def export_bioimageio(
    model: str | Path, output: str | Path, *, image: np.ndarray | None = None, licence: str = "CC-BY-4.0"
) -> list[str]:
    """Write a trained model as a package of bioimage.io (ZIP).

    The package contains a description, the parameters with the code of the network (for a U-Net),
    TorchScript, ONNX if the extra `onnx` is installed, a test image with its result, and a page. The
    exported network mirrors the edges of an image; the overlap of blocks is stated, so that other programs
    can predict block by block. Average over orientations and post-processing are not part of it.

    Parameters
    ----------
    model : str or Path
        Complete model file of a run, with a single network.
    output : str or Path
        ZIP file to write. The same model gives the same bytes, except for TorchScript and ONNX.
    image : (c, y, x) array, optional
        Test image. By default noise with the gray levels of the training images.
    licence : str, default "CC-BY-4.0"
        SPDX identifier of the licence of the model.

    Returns
    -------
    list of str
        Formats of the weights in the package.

    Raises
    ------
    InputError
        If the model is an ensemble, a detector, or has a mean image, which the format cannot describe, if the
        test image is not like the training images, or `licence` is no identifier.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", licence):
        raise InputError(
            f"licence `{licence}`: expected an SPDX identifier, such as CC-BY-4.0 or MIT (https://spdx.org/licenses)."
        )
    trained = _load(model)
    exported = CellProbability(trained)
    sizes = exported.sizes
    test = _test_image(trained, sizes, image)
    normalised = (test.astype(np.float32) - trained.normalisation.offset) / trained.normalisation.scale
    with torch.no_grad():
        tensor = torch.from_numpy(normalised)[None]
        result = exported(tensor).numpy()
    files = {"test_input.npy": _npy(test[None]), "test_output.npy": _npy(result)}
    weights: dict[str, Json] = {}
    if (source := architecture_source(trained.plan)) is not None:
        files["architecture.py"] = source.encode()
        files["weights.pt"] = _saved(lambda file: torch.save(exported.state_dict(), file))
        weights["pytorch_state_dict"] = {
            "source": "weights.pt",
            "sha256": _sha256(files["weights.pt"]),
            "architecture": {
                "source": "architecture.py",
                "sha256": _sha256(files["architecture.py"]),
                "callable": "CellProbability",
                "kwargs": exported.arguments,
            },
            "pytorch_version": torch.__version__.partition("+")[0],
        }
    parent = {"parent": "pytorch_state_dict"} if weights else {}
    files["weights_torchscript.pt"] = _torchscript(exported, tensor)
    weights["torchscript"] = {
        "source": "weights_torchscript.pt",
        "sha256": _sha256(files["weights_torchscript.pt"]),
        "pytorch_version": torch.__version__.partition("+")[0],
        **parent,
    }
    if _has_onnx():
        files["weights.onnx"] = onnx_bytes(exported, trained.normalisation)
        weights["onnx"] = {
            "source": "weights.onnx",
            "sha256": _sha256(files["weights.onnx"]),
            "opset_version": OPSET,
            **(parent or {"parent": "torchscript"}),
        }
    described = modelfile.describe(model)
    files["README.md"] = _readme(described, sizes).encode()
    files["cover.png"] = _cover(test, result[0, 0])
    rdf = _describe(described, trained, sizes, weights, files, licence)
    files = {"rdf.yaml": yaml.safe_dump(rdf, sort_keys=False, allow_unicode=True).encode()} | files
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return [*weights]


def export_onnx(model: str | Path, output: str | Path) -> Sizes:
    """Write a trained network as ONNX, from normalised images to the cell probability.

    Parameters
    ----------
    model : str or Path
        Model file with a single network.
    output : str or Path
        File to write (.onnx). Its metadata `mean` and `standard_deviation` state the normalisation, one
        number for each channel, with commas between them.

    Returns
    -------
    Sizes
        Heights and widths that it accepts.

    Raises
    ------
    InputError
        If the model is an ensemble or a detector, or the extra `onnx` is not installed.
    """
    if not _has_onnx():
        raise InputError("ONNX needs further packages. Type `pip install 'bordure[onnx]'`.")
    trained = _load(model)
    exported = CellProbability(trained)
    sizes = exported.sizes
    content = onnx_bytes(exported, trained.normalisation)
    with replacing(output) as temporary:
        temporary.write_bytes(content)
    return sizes


def onnx_bytes(exported: CellProbability, normalisation: Normalisation) -> bytes:
    """Return a network as ONNX, for any number of images and all of its sizes.

    Parameters
    ----------
    exported : CellProbability
        The network.
    normalisation : Normalisation
        Normalisation of its images, which becomes metadata.

    Returns
    -------
    bytes
        Content of a file. Its result was compared with the network for an image of another size.

    Raises
    ------
    RuntimeError
        If the results differ.
    """
    import onnxruntime

    sizes, channels = exported.sizes, len(normalisation.scale)
    first = sizes.smallest // sizes.step
    rows, columns = (torch.export.Dim(name, min=first, max=10_000) for name in ("rows", "columns"))
    dynamic = {
        0: torch.export.Dim("images", min=1, max=1024),
        2: rows * sizes.step,
        3: columns * sizes.step,
    }
    # lengths that are 1, the smallest one, or equal would be taken for constants
    example = torch.zeros(2, channels, sizes.smallest + 2 * sizes.step, sizes.smallest + sizes.step)
    # torch warns for each operator of torchvision if torchvision is missing; no network here uses one
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            exported,
            (example,),
            dynamo=True,
            dynamic_shapes={"x": dynamic},
            input_names=["raw"],
            output_names=["cell_probability"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    for name, values in (("mean", normalisation.offset), ("standard_deviation", normalisation.scale)):
        program.model.metadata_props[name] = ",".join(f"{value:.9g}" for value in values.ravel().tolist())
    content = _saved(program.save)
    shape = (1, channels, sizes.smallest, sizes.smallest + 3 * sizes.step)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    (found,) = onnxruntime.InferenceSession(content).run(None, {"raw": image.numpy()})
    with torch.no_grad():
        difference = float(np.abs(found - exported(image).numpy()).max())
    if difference > 1e-3:
        raise RuntimeError(f"ONNX differs from torch by {difference:.3f} in the probability. Report this.")
    return content


def _has_onnx() -> bool:
    """Return whether the extra `onnx` is installed."""
    return all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnxscript"))


def _load(model: str | Path) -> Model:
    """Load a model that can be exported; `InputError` otherwise."""
    described = modelfile.describe(model)
    if described.get("task") == "detection":
        raise InputError(f"{model}: finds boxes. Only models that segment can be exported.")
    trained = Model.load(model)
    if trained.normalisation.kind == "mean_image":
        raise InputError(
            f"{model}: subtracts a mean image, which other programs cannot do. Train with `normalisation: "
            "mean_std`."
        )
    if trained.plan.arguments().get("context_sections"):
        raise InputError(f"{model}: sees neighbouring sections, which other programs cannot give to it.")
    return trained


def _test_image(trained: Model, sizes: Sizes, image: np.ndarray | None) -> np.ndarray:
    """Return a test image (c, y, x) of a valid size, in the type of the training images."""
    side = sizes.smallest + sizes.step * max(-(-(256 - sizes.smallest) // sizes.step), 0)
    dtype = np.dtype(trained.normalisation.dtype)
    if image is not None:
        if len(image) != len(trained.normalisation.scale) or image.dtype != dtype:
            raise InputError(
                f"the test image has {several(len(image), 'channel')} of type {image.dtype}, expected "
                f"{len(trained.normalisation.scale)} of type {dtype}, as the training images have. Name "
                "another."
            )
        if min(image.shape[1:]) < side:
            raise InputError(
                f"the test image has {image.shape[1]} x {image.shape[2]} px, expected at least {side} x "
                f"{side} px. Name a larger one, or leave `--image` out."
            )
        top, left = ((length - side) // 2 for length in image.shape[1:])
        return image[:, top : top + side, left : left + side].astype(dtype)
    offset, scale = trained.normalisation.offset, trained.normalisation.scale
    noise = np.random.default_rng(0).normal(size=(len(scale), side, side))
    values = offset + scale * noise
    if dtype.kind == "u":
        values = np.clip(np.round(values), 0, np.iinfo(dtype).max)
    return values.astype(dtype)


def _describe(
    described: Json, trained: Model, sizes: Sizes, weights: Json, files: dict[str, bytes], licence: str
) -> Json:
    """Return the description of the package, `rdf.yaml`."""
    channels = len(trained.normalisation.scale)
    names = [f"channel{number}" for number in range(channels)]
    title = f"Cells by {described['name']} of bordure"
    space: list[Json] = [
        {"type": "space", "id": name, "size": {"min": sizes.smallest, "step": sizes.step}} for name in "yx"
    ]
    for axis, length in zip(space, trained.pixel_size or (), strict=False):
        axis |= {"scale": length, "unit": "micrometer"}
    offset, scale = (
        [float(value) for value in values.ravel()]
        for values in (trained.normalisation.offset, trained.normalisation.scale)
    )
    standardise = (
        {"mean": offset[0], "std": scale[0]}
        if channels == 1
        else {"mean": offset, "std": scale, "axis": "channel"}
    )
    reference = REFERENCES["ronneberger2015"]
    return {
        "type": "model",
        "format_version": FORMAT,
        "name": title,
        "description": "Probability that a pixel is inside a cell, for microscope images like those of the "
        "training.",
        "authors": [{"name": "bordure"}],
        "cite": [{"text": reference.text(), "doi": reference.doi.removeprefix("doi:")}],
        "license": licence,
        "documentation": "README.md",
        "covers": ["cover.png"],
        "tags": ["segmentation", "cells", "unet", "bordure", "2d", "pytorch"],
        "timestamp": "2000-01-01T00:00:00+00:00",  # fixed, so that the same model gives the same bytes
        "version": described["provenance"].get("version", provenance.version()).partition(" ")[0],
        "inputs": [
            {
                "id": "raw",
                "description": "gray levels of the image",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "id": "channel", "channel_names": names},
                    *space,
                ],
                "data": {"type": trained.normalisation.dtype},
                "pad": {"mode": "reflect"},  # edges of blocks as the network mirrors those of images
                "test_tensor": {
                    "source": "test_input.npy",
                    "sha256": _sha256(files["test_input.npy"]),
                },
                "preprocessing": [
                    {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                    {"id": "fixed_zero_mean_unit_variance", "kwargs": standardise},
                    {
                        "id": "ensure_dtype",
                        "kwargs": {"dtype": "float32"},
                    },  # else it becomes the input's type
                ],
            }
        ],
        "outputs": [
            {
                "id": "cell_probability",
                "description": "probability that the pixel is inside a cell",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "id": "channel", "channel_names": ["cell_probability"]},
                    *(
                        {key: value for key, value in axis.items() if key != "size"}
                        | {"halo": sizes.overlap, "size": {"tensor_id": "raw", "axis_id": axis["id"]}}
                        for axis in space
                    ),
                ],
                "data": {"type": "float32", "range": [0.0, 1.0]},
                "test_tensor": {
                    "source": "test_output.npy",
                    "sha256": _sha256(files["test_output.npy"]),
                },
            }
        ],
        "weights": weights,
        "config": {"bordure": _application(described)},
    }


def _application(described: Json) -> Json:
    """Return how the model was used: average over orientations, and the chosen post-processing."""
    found = described.get("application", {})
    chosen = {
        name: value
        for name, value in found.get("postprocessing", {}).items()
        if name not in ("grid", "value", "rejected")
    }
    return {"average_orientations": found.get("average_orientations", False), "postprocessing": chosen}


def _readme(described: Json, sizes: Sizes) -> str:
    """Return the page of the package."""
    scores = described.get("application", {}).get("scores", {})
    lines = [
        f"- {split}: " + ", ".join(f"{name} {value:.3f}" for name, value in sorted(own.items()))
        for split, own in scores.items()
    ]
    return "\n".join(
        [
            "# Model of bordure",
            "",
            "The network gives the probability that a pixel is inside a cell. It was trained by bordure "
            f"{described['provenance'].get('version', '')}, with {described['parameters']:,} parameters.",
            "",
            f"Height and width of an image are multiples of {sizes.step} px, at least {sizes.smallest} px. "
            f"Blocks of such sizes that overlap by {sizes.overlap} px on each side give the same as the "
            "whole image. Edges are mirrored.",
            "",
            "## Validation",
            "",
            *(lines or ["No scores are stored in the model."]),
            "",
            "These scores were reached with the post-processing below, and with the mean over eight "
            "orientations if it says so.",
            "",
            "```yaml",
            yaml.safe_dump(_application(described)).rstrip(),
            "```",
            "",
        ]
    )


def _cover(image: np.ndarray, probability: np.ndarray) -> bytes:
    """Return a picture of the test image beside its result, PNG."""
    from PIL import Image

    gray = np.repeat(np.round(255 * probability).astype(np.uint8)[..., None], 3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(np.hstack([raw_picture(image), gray])).save(buffer, "png")
    return buffer.getvalue()


def _torchscript(exported: CellProbability, example: torch.Tensor) -> bytes:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it is deprecated, but the only format of QuPath and older programs
        traced = torch.jit.trace(exported, example)
        return _saved(lambda file: torch.jit.save(traced, file))


def _saved(save: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    return _saved(lambda file: np.save(file, array))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
