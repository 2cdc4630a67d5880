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


def test_a_model_tells_about_itself_what_torch_would_find_in_it(path):
    content = torch.load(path, weights_only=True)
    described = modelfile.describe(path)
    parameters = sum(tensor.numel() for tensor in content.pop("state_dict").values())  # no batch statistics
    assert described == content | {"parameters": parameters}


def test_reading_it_takes_no_torch(path):
    code = (
        "import json, sys; from pipeline_lib.networks import modelfile; d = modelfile.describe(sys.argv[1]); "
        "assert 'torch' not in sys.modules; print(json.dumps(d))"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == modelfile.describe(path)


def test_the_same_model_is_the_same_bytes(path):
    model = Model.load(path)
    model.save(path)
    first = path.read_bytes()
    model.save(path)
    assert path.read_bytes() == first


def test_a_model_of_an_older_version_is_written_anew_as_the_message_says(path):
    described = modelfile.describe(path)
    write_tensors(path, torch.load(path, weights_only=True))  # as older versions did
    with pytest.raises(InputError, match=r"older version of bordure.*Model\.load\('.*model\.pt'\)\.save"):
        modelfile.describe(path)
    Model.load(path).save(path)
    assert modelfile.describe(path) == described


def test_what_is_no_model_is_named(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match="no such model"):
        modelfile.describe(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a readable model file"):
        modelfile.describe(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/other.json", "{}")
    with pytest.raises(InputError, match="not a model"):
        modelfile.describe(path)
