"""Malformed and malicious model files."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib import networks
from pipeline_lib.networks import modelfile

from .harness import Group

GROUP = Group("Models")
add, case = GROUP.add, GROUP.case


def write_model(**changes: Any) -> None:
    """Write a model with `changes` of its content."""
    import torch

    from pipeline_lib.networks.model import write_tensors

    write_sound_model()
    content = torch.load("model.pt", weights_only=True) | changes
    write_tensors("model.pt", content, {key: content[key] for key in modelfile.KEYS if key in content})


def write_sound_model() -> None:
    """Write a model that can be loaded."""
    from pipeline_lib.data.normalisation import Normalisation
    from pipeline_lib.networks.model import Model

    arguments = {"input_channels": 1, "depth": 1, "base_channels": 2}
    normalisation = Normalisation("mean_std", "uint8", np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    plan = networks.plan("unet", **arguments)
    Model(plan, plan.build(), normalisation).save("model.pt")


def rewrite_archive(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Change the members of the archive `model.pt`."""
    write_sound_model()
    with zipfile.ZipFile("model.pt") as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile("model.pt", "w", compression) as target:
        for name, content in members.items():
            target.writestr(name, change(name, content))


class Harm:
    """An object whose pickle creates a file when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, ("harmed", "w"))


add("text file", lambda: Path("model.pt").write_text("no model"))
add("empty file", lambda: Path("model.pt").write_bytes(b""))
add("folder instead of a file", lambda: Path("model.pt").mkdir())
add("named pipe instead of a file", lambda: os.mkfifo("model.pt"))
add(
    "file cut in half",
    lambda: (write_sound_model(), os.truncate("model.pt", Path("model.pt").stat().st_size // 2)),
)
add("pickle that would run code", lambda: Path("model.pt").write_bytes(pickle.dumps(Harm())))
add(
    "torch archive whose pickle would run code",
    rewrite_archive,
    lambda name, content: pickle.dumps(Harm(), 2) if name.endswith("data.pkl") else content,
)
add("archive with empty members", rewrite_archive, lambda name, content: b"")
add(
    "compressed archive (ZIP bomb)",
    rewrite_archive,
    lambda name, content: bytes(10**7) if name.endswith("/data/0") else content,
    zipfile.ZIP_DEFLATED,
)
add("one flipped bit", lambda: (write_sound_model(), flip_bit("model.pt")))


def flip_bit(name: str) -> None:
    """Flip one bit of the first tensor in an archive."""
    content = bytearray(Path(name).read_bytes())
    with zipfile.ZipFile(name) as archive:
        at = archive.getinfo(next(n for n in archive.namelist() if n.endswith("/data/0"))).header_offset
    name_length, extra = struct.unpack("<HH", content[at + 26 : at + 30])
    content[at + 30 + name_length + extra] ^= 1
    Path(name).write_bytes(content)


@case("torch tensors that are not a model")
def _():
    import torch

    torch.save({"a": torch.zeros(3)}, "model.pt")


@case("tensor longer than its file")
def _():
    def change(name: str, content: bytes) -> bytes:
        return content.replace(b"K\x12", b"J\xff\xff\xff\x7f") if name.endswith("data.pkl") else content

    rewrite_archive(change)


add("newer format version", lambda: write_model(format_version=99))
add("ensemble without networks", lambda: write_model(format_version=2, members=[]))
add("ensemble of numbers", lambda: write_model(format_version=2, members=[1, 2]))
add("ensemble in place of a network", lambda: write_model(format_version=2, members=[{}, {}]))
add("unknown network", lambda: write_model(name="vnet"))
add("unknown argument of the network", lambda: write_model(arguments={"width": 3}))
add("depth of a million", lambda: write_model(arguments={"depth": 10**6}))
add("a million channels", lambda: write_model(arguments={"depth": 1, "base_channels": 10**6}))
add("text instead of arguments", lambda: write_model(arguments="depth"))
add("missing arguments", lambda: write_model(arguments=None))
add(
    "depth that does not match the parameters",
    lambda: write_model(arguments={"input_channels": 1, "depth": 2, "base_channels": 2}),
)
add(
    "channels that are not those of three sections",
    lambda: write_model(
        arguments={"input_channels": 1, "depth": 1, "base_channels": 2, "context_sections": 1}
    ),
)
add("missing normalisation", lambda: write_model(normalisation={}))


def change_parameters(change: Callable[[Any], Any]) -> None:
    """Change each tensor of the parameters."""
    import torch

    write_sound_model()
    state = torch.load("model.pt", weights_only=True)["state_dict"]
    write_model(state_dict={name: change(tensor) for name, tensor in state.items()})


add("NaN in the parameters", lambda: change_parameters(lambda tensor: tensor * np.nan))
add("integer parameters", lambda: change_parameters(lambda tensor: tensor.int()))


def write_description(content: bytes) -> None:
    """Replace the description in the archive."""
    rewrite_archive(lambda name, old: content if name.endswith(modelfile.NAME) else old)


add("description nested 100,000 levels deep", write_description, b"[" * 100_000)
add("empty description", write_description, b"{}")
add("description that is not JSON", write_description, b"{'name': 'unet'}")
add(
    "description of 300 MB compressed to 300 kB",
    rewrite_archive,
    lambda name, old: bytes(300_000_000) if name.endswith(modelfile.NAME) else old,
    zipfile.ZIP_DEFLATED,
)
