import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from pipeline_lib import networks
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.networks import modelfile
from pipeline_lib.networks.model import Model, write_tensors
from pipeline_lib.runtime.errors import InputError


@pytest.fixture
def path(tmp_path):
    arguments = {"input_channels": 1, "depth": 1, "base_channels": 3}
    normalisation = Normalisation("mean_std", "uint8", np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    plan = networks.plan("unet", **arguments)
    Model(plan, plan.build(), normalisation, {"version": "9.9"}).save(tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_description_has_all_plain_values_of_the_model(path):
    content = torch.load(path, weights_only=True)
    described = modelfile.describe(path)
    parameters = sum(tensor.numel() for tensor in content.pop("state_dict").values())  # no batch statistics
    assert described == content | {"parameters": parameters}


def test_description_is_read_without_torch(path):
    code = (
        "import json, sys; from pipeline_lib.networks import modelfile; d = modelfile.describe(sys.argv[1]); "
        "assert 'torch' not in sys.modules; print(json.dumps(d))"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == modelfile.describe(path)


def test_same_model_gives_the_same_bytes(path):
    model = Model.load(path)
    model.save(path)
    first = path.read_bytes()
    model.save(path)
    assert path.read_bytes() == first


def test_model_of_an_older_version_gets_a_description_by_the_command_in_the_message(path):
    described = modelfile.describe(path)
    write_tensors(path, torch.load(path, weights_only=True))  # like older versions
    with pytest.raises(InputError, match=r"older version of bordure.*Model\.load\('.*model\.pt'\)\.save"):
        modelfile.describe(path)
    Model.load(path).save(path)
    assert modelfile.describe(path) == described


def test_unusable_model_files_are_reported(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match="no such model file"):
        modelfile.describe(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a readable model file"):
        modelfile.describe(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/other.json", "{}")
    with pytest.raises(InputError, match="it is not a model"):
        modelfile.describe(path)
