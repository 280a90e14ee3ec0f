"""Bundles on disk: exact round trips, and every damage noticed."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from motionrag import BundleConfig, MotionBundle, MotionRAGError, checkpoint
from motionrag.config import parse
from motionrag.models.adapter import AdapterConfig
from motionrag.models.context import ContextConfig
from motionrag.models.resampler import ResamplerConfig
from motionrag.testing import random_tensor, random_weights

SIZES = {"width": 16, "depth": 1, "heads": 2, "head_dim": 4, "queries": 5, "output_dim": 8}
CONFIG = BundleConfig(
    adapter=AdapterConfig(base="svd", motion_dim=8, sites={"mid.attn2": 16, "up.0.attn2": 32}),
    motion_resampler=ResamplerConfig(input_dim=12, **SIZES),
    appearance_resampler=ResamplerConfig(input_dim=10, **SIZES),
    context=ContextConfig(width=8, queries=5, layers=1, heads=2, feed_forward=16, max_positions=50),
)


@pytest.fixture
def bundle():
    bundle = MotionBundle(CONFIG).eval()
    random_weights(bundle)
    return bundle


@pytest.fixture
def folder(bundle, tmp_path):
    bundle.save_pretrained(tmp_path / "bundle")
    return tmp_path / "bundle"


@torch.no_grad()
def test_round_trip(bundle, folder):
    again = MotionBundle.from_pretrained(folder).eval()
    assert again.config == CONFIG
    assert again.fingerprint() == bundle.fingerprint()
    inputs = random_tensor(2, 3, 5, 8), random_tensor(2, 3, 5, 8, seed=1), random_tensor(2, 5, 8, seed=2)
    assert torch.equal(again.adapt(*inputs), bundle.adapt(*inputs))
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_a_bundle_of_before_views_is_refused(bundle, folder):
    state, document = checkpoint.load(folder / "model.safetensors", folder / "config.json")
    del document["view"]
    checkpoint.save(folder, state, document)
    with pytest.raises(MotionRAGError, match=r"convert its checkpoints again, or train it again"):
        MotionBundle.from_pretrained(folder)


def test_adapt_takes_the_most_similar_first(bundle):
    """The published order: the most similar reference sits next to the target."""
    motion, appearance, target = (random_tensor(1, 3, 5, 8, seed=i) for i in range(3))
    blocks = bundle.context(motion.flip(1), torch.cat([appearance.flip(1), target[:, :1]], dim=1))
    assert torch.equal(bundle.adapt(motion, appearance, target[:, 0]), blocks[:, -1])


def test_a_share_of_the_references_own_motion_may_be_kept(bundle):
    g = torch.Generator().manual_seed(0)
    motion, looks, target = (torch.randn(2, *shape, 5, 8, generator=g) for shape in ((4,), (4,), ()))
    own = motion.mean(dim=1)

    def adapted(kept, motion=motion, similarity=None):
        other = MotionBundle(replace(bundle.config, context=replace(bundle.config.context, kept=kept)))
        other.load_state_dict(bundle.state_dict())
        return other.eval().adapt(motion, looks, target, similarity)

    with torch.no_grad():
        alone, half, whole = (adapted(kept) for kept in (0.0, 0.5, 1.0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as in training, motion out of a bfloat16 layer
        mixed = adapted(0.5, motion.bfloat16())
    torch.testing.assert_close(mixed.float(), half, atol=0.1, rtol=0.05)
    torch.testing.assert_close(alone, bundle.adapt(motion, looks, target))
    torch.testing.assert_close(half, (alone + own) / 2)
    torch.testing.assert_close(whole, own)
    unlike = torch.tensor([[0.9, 0.9, 0.9 - 0.07 * math.log(2), -1.0]]).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(adapted(1.0, similarity=torch.ones(2, 4)), own)
        weighed = (motion * torch.tensor([0.4, 0.4, 0.2, 0])[:, None, None]).sum(dim=1)
        torch.testing.assert_close(adapted(1.0, similarity=unlike), weighed, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(adapted(0.5, similarity=unlike), (alone + weighed) / 2, atol=1e-5, rtol=1e-5)
        assert torch.equal(adapted(0.0, similarity=unlike), alone)
        with pytest.raises(MotionRAGError, match=r"similarities \(4,\) must be"):
            adapted(0.5, similarity=unlike[0])
    with pytest.raises(MotionRAGError, match=r"kept=1\.5"):
        replace(bundle.config.context, kept=1.5)


def test_fingerprint_changes_with_any_weight(bundle):
    before = bundle.fingerprint()
    with torch.no_grad():
        bundle.adapter.site("mid.attn2").to_v.weight[0, 0] += 1
    assert bundle.fingerprint() != before


def test_loads_from_the_hub_cache(folder, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--someone--bundle" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes((folder / name).read_bytes())
    refs = tmp_path / "hub" / "models--someone--bundle" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    bundle = MotionBundle.from_pretrained("someone/bundle", cache_dir=tmp_path / "hub", local_files_only=True)
    assert bundle.config == CONFIG


@pytest.mark.parametrize("name", ["no/such/folder", "someone/nothing"])
def test_a_bundle_that_is_not_there(name):
    with pytest.raises(MotionRAGError, match=f"no bundle at '{name}'"):
        MotionBundle.from_pretrained(name)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit_config(folder, **changes):
    path = folder / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | changes))


def save_again(folder, state, document):
    with checkpoint.replacing(folder) as temporary:  # the tensors may be a memory map of the file that is there
        checkpoint.save(temporary, state, document)


def drop_a_tensor(folder):
    state, document = checkpoint.load(folder / "model.safetensors", folder / "config.json")
    del state["context.start"]
    save_again(folder, state, document)


def misname_a_key(folder):
    state, document = checkpoint.load(folder / "model.safetensors", folder / "config.json")
    document["context"]["layer"] = document["context"].pop("layers")
    save_again(folder, state, document)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "damaged or cut short"),
        (flip_a_bit, "do not belong together"),
        (lambda folder: edit_config(folder, context={}), "do not belong together"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: holds no settings"),
        (lambda folder: (folder / "config.json").write_text("{}"), "has no fingerprint"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no such file"),
        (drop_a_tensor, "context.start is missing"),
        (misname_a_key, "unknown key 'layer'; did you mean 'layers'"),
    ],
)
def test_damage_is_noticed(folder, damage, message):
    damage(folder)
    with pytest.raises(MotionRAGError, match=f"(?s){message}"):
        MotionBundle.from_pretrained(folder)


def test_a_full_disk_leaves_the_old_bundle(folder):
    """In a process that may write no file as large as the weights, as on a disk without room."""
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    code = (
        "import resource, sys, motionrag\n"
        "bundle = motionrag.MotionBundle.from_pretrained(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    bundle.save_pretrained(sys.argv[1])\n"
        "except motionrag.MotionRAGError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert "of weights cannot be written" in done.stdout
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_saving_again_replaces_the_weights_and_keeps_other_files(bundle, folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "README.md").write_text("my own words")
    with torch.no_grad():
        bundle.context.start.zero_()
    bundle.save_pretrained(folder)
    assert MotionBundle.from_pretrained(folder).context.start.abs().max() == 0
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "README.md").read_text() == "my own words"


def test_saving_where_one_is(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle.save_pretrained(".")
    assert MotionBundle.from_pretrained(".").config == CONFIG
    with pytest.raises(MotionRAGError, match="is a file, a folder is wanted"):
        bundle.save_pretrained("config.json")


def test_an_unknown_option_is_refused(folder):
    with pytest.raises(TypeError, match="torch_dtype"):
        MotionBundle.from_pretrained(folder, torch_dtype=torch.float16)


def test_settings_that_contradict_are_refused():
    with pytest.raises(
        MotionRAGError, match="motion_resampler makes 6 tokens 8 wide, context takes 5 tokens 8 wide"
    ):
        BundleConfig(
            adapter=CONFIG.adapter,
            motion_resampler=ResamplerConfig(**(SIZES | {"queries": 6})),
            appearance_resampler=CONFIG.appearance_resampler,
            context=CONFIG.context,
        )


def test_settings_of_the_wrong_type_are_refused():
    with pytest.raises(MotionRAGError, match=r"recipe\.yaml.*width"):
        parse(ContextConfig, {"width": "wide"}, where="recipe.yaml")
