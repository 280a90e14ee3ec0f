"""The bases that stages are trained on, each with its clips; made once."""

import pytest

from tests.training import world


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    return world.save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def worlds(tmp_path_factory, encoders):
    """Makes the world of a base by its name, once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = world.World(name, tmp_path_factory.mktemp(name), encoders)
        return made[name]

    return get


@pytest.fixture(scope="session", params=world.BASES)
def each(request, worlds):
    return worlds(request.param)


@pytest.fixture(scope="session")
def small(worlds):
    return worlds("tiny")
