import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from PIL import Image

from motionrag import testing
from tests.helpers import build


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def image():
    return Image.radial_gradient("L").resize((16, 16)).convert("RGB")


@pytest.fixture(params=["svd", "cogvideox"])
def runner(request, image):
    return build(request.param, image)


@pytest.fixture
def motion():
    return testing.random_tensor(1, 5, 16, seed=11)


@pytest.fixture
def null():
    return testing.random_tensor(1, 5, 16, seed=12)
