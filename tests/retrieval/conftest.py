import shutil

import pytest

from motionrag import testing
from motionrag.encoders import load_appearance_encoder, load_motion_encoder
from motionrag.models.adapter import AdapterConfig
from motionrag.models.bundle import BundleConfig, MotionBundle
from motionrag.models.context import ContextConfig
from motionrag.models.resampler import ResamplerConfig
from motionrag.retrieval.encoding import ClipEncoders
from motionrag.retrieval.ingest import ingest
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import CaptionEncoder
from tests.encoders.conftest import save_dinov2, save_videomae
from tests.retrieval.corpus import make_corpus


@pytest.fixture(scope="session")
def caption():
    return CaptionEncoder()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Tiny real encoders and a bundle that takes their features, on disk."""
    folder = tmp_path_factory.mktemp("models")
    save_videomae(folder / "videomae")
    save_dinov2(folder / "dinov2")
    sizes = {"width": 16, "depth": 1, "heads": 2, "head_dim": 8, "queries": 4, "output_dim": 16}
    config = BundleConfig(
        adapter=AdapterConfig(base="svd", sites={"mid.attn2": 16}, motion_dim=16),
        motion_resampler=ResamplerConfig(input_dim=32, **sizes),
        appearance_resampler=ResamplerConfig(input_dim=32, **sizes),
        context=ContextConfig(width=16, layers=1, heads=2, feed_forward=32, queries=4),
    )
    testing.random_weights(bundle := MotionBundle(config))
    bundle.save_pretrained(folder / "bundle")
    return folder


@pytest.fixture(scope="session")
def encoders(models, caption):
    """Captions, motion and appearance, with tokens."""
    from motionrag.cli.loading import _tokenizers
    from motionrag.pipeline.parts import load_bundle

    video = {
        "motion": load_motion_encoder(str(models / "videomae")),
        "appearance": load_appearance_encoder(str(models / "dinov2")),
    }
    tokenizers = _tokenizers(load_bundle(str(models / "bundle")), str(models / "bundle"), "cpu", video)
    return ClipEncoders(caption=caption, video=video, tokenizers=tokenizers)


@pytest.fixture(scope="session")
def captions_only(caption):
    return ClipEncoders(caption=caption)


@pytest.fixture(scope="session")
def _corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def corpus(_corpus, tmp_path):
    """A folder of twelve captioned clips, the test's own."""
    return shutil.copytree(_corpus, tmp_path / "corpus")


@pytest.fixture
def bring(tmp_path):
    """Ingest a folder into a database, `tmp_path/db` unless named."""

    def bring(source, encoders, db=None, **options):
        database = MotionDatabase.create(db or tmp_path / "db", encoders.settings)
        return database, ingest(read_jobs(source), database, encoders, **options)

    return bring


@pytest.fixture(scope="session")
def full(_corpus, encoders, tmp_path_factory):
    """A database of the twelve clips with vectors and tokens; not to be changed."""
    database = MotionDatabase.create(tmp_path_factory.mktemp("full") / "db", encoders.settings)
    ingest(read_jobs(_corpus), database, encoders, workers=2)
    return database
