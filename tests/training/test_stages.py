"""Protects the trainings of denoisers: called as pipelines call them, the right parts trained, results usable."""

import json
from dataclasses import replace

import pytest
import torch

from motionrag import attach
from motionrag.bases import tiny
from motionrag.bases.loading import load_base
from motionrag.config import parse
from motionrag.errors import MotionRAGError
from motionrag.models.bundle import MotionBundle
from motionrag.models.fusion import fuse
from motionrag.registry import base_spec
from motionrag.synth.kin import ALIKE, KIN
from motionrag.training import joint
from motionrag.training.base import BaseSettings, BaseTask
from motionrag.training.context import ContextTask, ReferenceSettings
from motionrag.training.denoise import SampleSettings
from motionrag.training.kin import kin_blocks
from motionrag.training.objectives import Noised
from motionrag.training.parts import BundleSettings, spread
from motionrag.training.pictures import picture
from motionrag.types import View
from tests.training import world


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def overfit(task, steps=12, size=4, lr=1e-2):
    """The loss of one batch at one noise, before and after some updates on it."""
    optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], lr)
    losses = []
    for _ in range(steps):
        loss, _ = task.loss(task.batch(size, seeded()), seeded())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def with_gradients(task, size=4):
    """Names of the bundle's parameters that a backward pass reaches."""
    task.loss(task.batch(size, seeded()), seeded())[0].backward()
    bundle = task.bundle if isinstance(task, ContextTask) else task.adapted.bundle
    return bundle, {name for name, p in bundle.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def of_parts(bundle, *parts):
    return {name for name, _ in bundle.named_parameters() if name.split(".")[0] in parts}


# -- the base is called as its pipeline calls it


def test_the_denoiser_is_given_what_the_pipeline_gives_it(each):
    task = each.adapter()
    base = task.adapted.base
    calls = []
    denoiser = base.denoiser
    rows = torch.tensor([1, 2])
    first = base.truth(rows)[:, 0]
    handle = denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    images = [picture(frame) for frame in first]
    base.generate(rows, first, replace(task.settings.samples, guidance=1.0, steps=2))
    batch = base.batch(rows, 0.0, seeded(0))
    channels = batch["latents"].shape[2]
    theirs = calls[0]
    sample = theirs[0][0] if theirs[0] else theirs[1]["hidden_states"]
    timestep = theirs[0][1] if len(theirs[0]) > 1 else theirs[1]["timestep"]
    assert images[0].size == (each.data["width"], each.data["height"])
    sample = sample.transpose(1, 2) if each.name == "dynamicrafter" else sample  # frames on the second axis
    # the image's latents as the pipeline made them of this picture take the place of the cached ones
    batch["image"] = sample[:, 0, channels:]
    if each.name in ("tiny", "dynamicrafter"):
        batch["latents"] = batch["latents"].float()
        batch["latents"][:, 0] = sample[:, 0, channels:]
    if each.name == "svd":
        batch["image_noise"] = torch.full((2, 1), 0.02)
        batch["prompt"] = theirs[1]["encoder_hidden_states"]
    if each.name == "dynamicrafter":
        assert torch.allclose(base.conditioning._tokens(first), theirs[1]["image_embeds"], atol=1e-4)
        batch["image_tokens"] = theirs[1]["image_embeds"]
    noised = Noised(sample[:, :, :channels], timestep.expand(2), sample)
    calls.clear()
    with torch.no_grad():
        base.conditioning.predict(denoiser, noised, batch)
    handle.remove()
    assert flat(calls[0]).keys() == flat(theirs).keys()
    for name, value in flat(theirs).items():
        assert torch.allclose(flat(calls[0])[name].float(), value.float(), atol=1e-6), name


def flat(call):
    """Arguments by name, single tensors each."""
    args, kwargs = call
    found = dict(zip(("sample", "timestep"), args, strict=False)) | kwargs
    found |= {f"rotary{i}": part for i, part in enumerate(found.pop("image_rotary_emb", None) or ())}
    found["timestep"] = found["timestep"].reshape(-1)[:1]
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def test_dropped_prompts_are_what_guidance_sets_against_prompts(each):
    base = each.adapter().adapted.base
    rows = torch.arange(3)
    dropped, kept = (base.batch(rows, share, seeded()) for share in (1.0, 0.0))
    assert set(base.dropped) == ({"prompt", "image_tokens"} if each.name == "dynamicrafter" else {"prompt"})
    for name in base.conditioning.arrays:
        if name in base.dropped:
            assert torch.equal(dropped[name], base.dropped[name].expand_as(dropped[name]))
            assert not torch.equal(kept[name], dropped[name])
        else:
            assert torch.equal(kept[name], dropped[name])
    if each.name == "svd":  # and the image's latents with them
        batch = base.batch(rows, 1.0, seeded())
        seen = []
        handle = base.denoiser.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        x0 = base.conditioning.latents(batch)
        with torch.no_grad():
            base.conditioning.predict(base.denoiser, base.objective(x0, seeded()), batch)
        handle.remove()
        assert (seen[0][:, :, x0.shape[2] :] == 0).all()
    if each.name == "dynamicrafter":  # its pipeline sets a grey image against the image
        seen = []
        hook = lambda _, args, kwargs: seen.append(kwargs["image_embeds"])  # noqa: E731
        handle = base.denoiser.register_forward_pre_hook(hook, with_kwargs=True)
        base.generate(rows[:1], base.truth(rows[:1])[:, 0], SampleSettings(count=1, steps=1, guidance=2.0))
        handle.remove()
        assert torch.allclose(seen[0][:1], base.dropped["image_tokens"].float(), atol=2e-3)


# -- each stage


def test_stage_1_trains_adapter_and_motion_resampler_alone(each):
    task = each.adapter(drop_motion=0.3, base={**each.base, "gradient_checkpointing": True})
    bundle, reached = with_gradients(task)
    assert reached == of_parts(bundle, "adapter", "motion_resampler")
    assert {id(p) for p in task.model.parameters()} == {
        id(p) for name, p in bundle.named_parameters() if name in of_parts(bundle, "adapter", "motion_resampler")
    }
    assert all(p.grad is None and not p.requires_grad for p in task.adapted.base.denoiser.parameters())
    before, after = overfit(task)
    assert after < before


def test_stage_2_trains_context_and_appearance_resampler_alone(each):
    task = each.context()
    bundle, reached = with_gradients(task)
    assert reached == of_parts(bundle, "context", "appearance_resampler")
    before, after = overfit(task)
    assert after < 0.7 * before


def test_stage_3_trains_the_whole_bundle(each, tmp_path):
    task = each.joint(drop_motion=0.0)
    bundle, reached = with_gradients(task)
    assert reached == {name for name, _ in bundle.named_parameters()}
    before, after = overfit(task)
    assert after < before
    with torch.no_grad():
        task.sample(tmp_path, 7)
    figures = json.loads((tmp_path / "step-000007.json").read_text())
    assert set(figures) == {"loss_adapted", "loss_own", "loss_none"}
    assert (tmp_path / "step-000007.png").stat().st_size > 1000
    task.export(tmp_path / "bundle")
    loaded = MotionBundle.from_pretrained(tmp_path / "bundle")
    pipe = load_base(each.folder) if each.name != "tiny" else tiny.load(each.root / "base")
    with attach(pipe, loaded.adapter):
        pass
    assert loaded.fingerprint() == bundle.fingerprint()


def test_stage_3_takes_clips_of_kin_and_of_their_own_motion(small, tmp_path, monkeypatch):
    kin = {"cache": str(tmp_path / "kin"), "clips": 40, "seed": 3, "share": 0.5}
    task = small.joint(kin=kin, freeze_resampler=True, own_motion=1.0, drop_motion=0.0)
    bundle = task.adapted.bundle
    assert set(task.model) == {"context", "appearance_resampler", "adapter"}
    batch = task.batch(4, seeded(2))
    assert {len(values) for values in batch.values()} == {4}
    theirs = task.adapted.kin.take("motion", torch.arange(40)).flatten(1)
    of_kin = [(blocks.flatten(1)[:, None] == theirs).all(-1) for blocks in batch["motion"]]
    assert [bool(found.any()) for found in of_kin] == [False, False, True, True]
    for found, own, latents in zip(of_kin[2:], batch["own_motion"][2:], batch["latents"][2:], strict=True):
        target = (own.flatten() == theirs).all(-1).int().argmax()
        assert torch.equal(task.adapted.kin.take("latents", target[None])[0], latents)
        assert found[0].int().argmax() // KIN == target // KIN  # the best reference is of kin
    blocks = torch.tensor([[10, 1, 2, 0], [20, 11, 12, 13]])  # references least similar first, then the target
    scores = torch.tensor([[1.0, 0.9, 0.8], [0.95, 0.85, 0.7]])
    monkeypatch.setattr(joint, "kin_blocks", lambda clips, size, K, generator: (blocks, scores))
    known = task.batch(4, seeded(2))
    assert torch.equal(known["scores"][2:], scores)
    assert set(known["scores"][:2].flatten().tolist()) <= set(task.neighbours.scores.flatten().tolist())
    for name, wanted in (("motion", blocks[:, [2, 1, 0]]), ("appearance", blocks[:, [2, 1, 0, 3]])):
        assert torch.equal(known[name][2:], task.adapted.kin.take(name, wanted))
    assert torch.equal(known["own_motion"][2:], task.adapted.kin.take("motion", blocks[:, 3]))
    with torch.no_grad():
        own = bundle.motion_resampler(batch["own_motion"].float())
        wanted = task.adapted.loss(own, batch, seeded(5))
        assert task.loss(batch, seeded(5))[0].item() == pytest.approx(wanted.item(), rel=1e-6)
        other = task.loss({**batch, "own": torch.zeros(4, dtype=torch.bool)}, seeded(5))[0]
    assert other.item() != pytest.approx(wanted.item(), rel=1e-6)
    task.settings = replace(task.settings, token_weight=0.5)
    with torch.no_grad():
        looks = bundle.appearance_resampler(batch["appearance"].float())
        motion = bundle.motion_resampler(batch["motion"].float())
        error = (bundle.adapt(motion, looks[:, :-1], looks[:, -1]) - own).square().mean()
        assert task.loss(batch, seeded(5))[0].item() == pytest.approx((wanted + 0.5 * error).item(), rel=1e-5)


def test_stage_3_weighs_the_references_own_motion_as_a_generation_does(small):
    task = small.joint()
    bundle = task.adapted.bundle
    bundle.config = replace(bundle.config, context=replace(bundle.config.context, kept=1.0))
    batch = task.batch(4, seeded(2))
    with torch.no_grad():
        motion = bundle.motion_resampler(batch["motion"].float())
        torch.testing.assert_close(task._adapted_motion(batch), fuse("weighted", motion, batch["scores"]))
        alike = task._adapted_motion({**batch, "scores": torch.ones_like(batch["scores"])})
    torch.testing.assert_close(alike, motion.mean(dim=1))


def test_what_stage_3_cannot_have_is_refused(small, tmp_path):
    kin = {"cache": str(tmp_path / "kin"), "clips": 40}
    for said, settings in {
        "own_motion=7": {"own_motion": 7.0},
        "token_weight=-1": {"token_weight": -1.0},
        "token_weight=1.0 wants freeze_resampler": {"token_weight": 1.0},
        "references.most=10: with kin at most 9": {"kin": kin, "references": {"most": 10}},
        "set data.motion_encoder": {"kin": kin, "data": {**small.data, "motion_encoder": None}},
    }.items():
        with pytest.raises(MotionRAGError, match=said):
            small.joint(**settings)
    assert not (tmp_path / "kin").exists()
    task = small.joint(kin={**kin, "share": 0.1})
    with pytest.raises(MotionRAGError, match=r"kin.share=0.1 of train.batch=4 is no clip"):
        task.batch(4, seeded())
    assert "own_motion" not in small.joint().batch(2, seeded())  # nothing is computed that is not used


# -- stage 1 in detail


def test_samples_leave_the_training_as_it_was(small, tmp_path):
    task = small.adapter()
    batch = task.batch(4, seeded())
    before = task.loss(batch, seeded())[0].item()
    with torch.no_grad():
        task.sample(tmp_path, 1)
    assert task.loss(batch, seeded())[0].item() == before
    figures = json.loads((tmp_path / "step-000001.json").read_text())
    assert figures["loss_own"] != figures["loss_none"]  # the random value projections do something


def test_a_zero_adapter_trains_from_the_bare_base(small):
    task = small.adapter(bundle={**world.BUNDLE, "value_std": 0.0}, drop_motion=0.0)
    batch = task.batch(4, seeded())
    bare = task.adapted.base.loss(task.adapted.base.denoiser, batch, seeded())
    assert task.loss(batch, seeded())[0].item() == pytest.approx(bare.item(), rel=1e-6)


def test_dropped_motion_is_that_of_a_grey_video(small):
    task = small.adapter()
    encoder_free = task.adapted.null()
    motion = torch.randn(3, *encoder_free.shape[1:])
    mixed = task.adapted.dropped(motion, torch.tensor([True, False, True]))
    assert torch.equal(mixed[1], motion[1])
    assert torch.equal(mixed[[0, 2]], encoder_free.expand(2, -1, -1))
    drops = torch.stack([task.batch(16, seeded(i))["drop"].float().mean() for i in range(40)])
    assert drops.mean().item() == pytest.approx(0.15, abs=0.06)


def test_it_goes_on_from_a_bundle_or_a_resampler(small, tmp_path):
    from dataclasses import asdict

    from motionrag import checkpoint

    bundle = MotionBundle.from_pretrained(small.bundle())
    again = small.adapter(bundle={"folder": small.bundle()}).adapted.bundle
    assert again.fingerprint() == bundle.fingerprint()
    resampler = bundle.motion_resampler
    checkpoint.save(tmp_path, resampler.state_dict(), asdict(resampler.config))
    task = small.adapter(bundle={**world.BUNDLE, "resampler": str(tmp_path), "seed": 5}, freeze_resampler=True)
    warm = task.adapted.bundle
    for (name, own), given in zip(warm.motion_resampler.named_parameters(), resampler.parameters(), strict=True):
        assert torch.equal(own, given) != name.startswith("norm_out."), name
    assert not torch.equal(warm.context.start, bundle.context.start)
    assert set(task.model) == {"adapter"}
    assert not any(parameter.requires_grad for parameter in warm.motion_resampler.parameters())
    features = task.adapted.base.cache.take("motion", task.adapted.base.rows).float()
    with torch.no_grad():
        tokens, before = warm.motion_resampler(features), resampler(features)
    assert tokens.mean(dim=(0, 1)).abs().max() < 0.3  # of other draws of the same clips
    assert tokens.std(dim=(0, 1)) == pytest.approx(1, abs=0.3)
    scale = (before - before.mean(dim=(0, 1))) / before.std(dim=(0, 1))
    torch.testing.assert_close(
        tokens - tokens.mean(dim=(0, 1)), scale * tokens.std(dim=(0, 1)), atol=1e-3, rtol=1e-3
    )


def test_batches_follow_from_their_generator(small):
    for task in (small.adapter(), small.context(), small.joint()):
        first, same, other = (task.batch(4, seeded(seed)) for seed in (1, 1, 2))
        assert all(torch.equal(first[name], same[name]) for name in first)
        assert not torch.equal(first["motion"], other["motion"])


# -- stage 2 in detail


def test_blocks_are_the_references_least_similar_first_then_the_target(small):
    task = small.context()
    batch = task.batch(3, seeded(4))
    rows = task.rows[torch.randint(len(task.rows), (3,), generator=seeded(4))]
    references = task.neighbours.rows[rows]
    own = task.cache.take(task.tokens, rows)
    assert torch.equal(batch["motion"][:, -1], own)
    assert torch.equal(batch["motion"][:, -2], task.cache.take(task.tokens, references[:, 0]))
    assert torch.equal(batch["appearance"][:, 0], task.cache.take("appearance", references[:, 2]))
    with torch.no_grad():  # the target block is what the bundle makes of them when it is used
        tokens = batch["motion"][:, :-1].float().flip(1)
        looks = task.bundle.appearance_resampler(batch["appearance"].float())
        adapted = task.bundle.adapt(tokens, looks[:, :-1].flip(1), looks[:, -1])
        _, metrics = task.loss(batch, seeded())
    assert metrics["target"].item() == pytest.approx((adapted - own.float()).square().mean().item(), rel=1e-4)
    assert metrics["top1"].item() == pytest.approx(
        (batch["motion"][:, -2].float() - own.float()).square().mean().item(), rel=1e-4
    )


def test_clips_of_kin_have_their_motion_in_common(small, tmp_path):
    blocks, scores = kin_blocks(200, 2000, 9, seeded(1))
    kin, alike = blocks // KIN == blocks[:, -1:] // KIN, blocks % KIN < ALIKE
    assert alike[:, -1].all()
    assert (blocks[:, :-1] != blocks[:, -1:]).all()
    found = (kin & alike)[:, :-1].float().mean(dim=0)
    assert found[-1] > 0.9 > 0.5 > found[0]  # the best last
    assert 0.45 < kin[:, 0].float().mean() < 0.65  # the least similar are of other motions half of the time
    assert kin[:, -1].all()
    assert (scores.diff(dim=1) <= 0).all()
    assert 0.7 <= scores.min() < 0.75 < 0.95 < scores.max() <= 1  # as cosines of captions are spread
    few, _ = kin_blocks(200, 500, 2, seeded(2))
    assert few.shape == (500, 3)
    task = small.context(kin={"cache": str(tmp_path / "kin"), "clips": 40, "seed": 3, "share": 0.5})
    batch = task.batch(4, seeded(2))
    assert [len(values) for values in batch.values()] == [4, 4, 4]
    tokens = task.kin.take(task.tokens, torch.arange(40)).flatten(1)
    own = batch["motion"][2:].flatten(2)
    assert (own[:, :, None] == tokens).all(dim=-1).any(dim=-1).all()
    with pytest.raises(MotionRAGError, match=r"share=1\.5"):
        small.context(kin={"cache": "x", "share": 1.5})
    with pytest.raises(MotionRAGError, match="multiple of 10"):
        small.context(kin={"cache": "x", "clips": 35})


def test_tokens_are_those_of_the_frozen_resampler(small):
    task = small.context()
    rows = torch.tensor([0, 7, 19])
    with torch.no_grad():
        wanted = task.bundle.motion_resampler(task.cache.take("motion", rows).float())
    assert torch.allclose(task.cache.take(task.tokens, rows).float(), wanted, atol=2e-3)


def test_references_are_drawn_as_settings_say():
    fixed = ReferenceSettings(most=3).draw(2, seeded())
    assert fixed.tolist() == [[0, 1, 2], [0, 1, 2]]
    drawn = [ReferenceSettings(most=3, least=1, pool=6).draw(4, seeded(i)) for i in range(50)]
    assert {places.shape[1] for places in drawn} == {1, 2, 3}
    assert all((places.diff(dim=1) > 0).all() for places in drawn)
    assert max(int(places.max()) for places in drawn) == 5
    with pytest.raises(MotionRAGError, match="does not hold"):
        ReferenceSettings(most=3, pool=2)


def test_a_new_adapter_may_be_for_the_first_steps(small):
    bundle = small.adapter(bundle={**world.BUNDLE, "until": 0.5}).adapted.bundle
    assert bundle.adapter.config.until == bundle.config.adapter.until == 0.5


def test_what_does_not_fit_is_refused(small):
    with pytest.raises(MotionRAGError, match=r"references.most=4: .* holds 3"):
        small.context(references={"most": 4})
    wide = {**world.BUNDLE, "motion_resampler": {**world.BUNDLE["motion_resampler"], "input_dim": 48}}
    with pytest.raises(MotionRAGError, match="motion features are 32 wide, the bundle's resampler takes 48"):
        small.adapter(bundle=wide)
    with pytest.raises(MotionRAGError, match="is a bundle for tiny, not for cogvideox"):
        BundleSettings(folder=small.bundle()).open(None, "cogvideox", None)
    with pytest.raises(MotionRAGError, match=r"takes whole clips, data\.view asks for windows of 8 frames at 8 fps"):
        BundleSettings(folder=small.bundle()).open(None, "tiny", View(frames=8, fps=8.0))


def test_spread_tells_collapsed_tokens():
    tokens = torch.randn(1, 4, 8).expand(6, -1, -1)
    assert spread(tokens + 0.01 * torch.randn(6, 4, 8)) < 0.01
    assert spread(torch.randn(600, 4, 8)) > 0.9


# -- the base


def test_a_new_base_trains_samples_and_loads(tmp_path, encoders):
    data = {"cache": str(tmp_path / "c"), "sources": world.clips(20), "captions": 2, "held_out": 4}
    new = {"layers": 1, "heads": 2, "head_dim": 16, "time_dim": 16, "size": 32, "frames": 4}
    document = {"data": data, "vae": world.save_vae(tmp_path / "vae"), "new": new, "samples": world.SAMPLES}
    task = BaseTask(parse(BaseSettings, document, "test"))
    before, after = overfit(task, steps=20)
    assert after < 0.9 * before
    assert {p.requires_grad for p in task.model.parameters()} == {True}
    assert not any(p.requires_grad and p.grad is not None for p in task.base.pipe.vae.parameters())
    with torch.no_grad():
        task.sample(tmp_path, 3)
    assert (tmp_path / "step-000003.png").stat().st_size > 1000
    task.export(tmp_path / "out")
    loaded = tiny.load(tmp_path / "out")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.transformer.parameters(), task.model.parameters(), strict=True)
    )
    again = BaseTask(parse(BaseSettings, {"data": {**data, "sources": []}, "init": str(tmp_path / "out")}, "test"))
    batch = task.batch(4, seeded())
    assert torch.equal(task.loss(batch, seeded())[0], again.loss(batch, seeded())[0])


def test_a_hub_base_is_trained_on_from_its_folder(each, tmp_path):
    if each.name == "tiny":
        pytest.skip("made anew above")
    each.adapter()  # makes the cache
    document = {"data": {**each.data, "sources": []}, "base": each.name, "init": each.folder, "drop_prompt": 0.3}
    task = BaseTask(parse(BaseSettings, document, "test"))
    before, after = overfit(task, lr=3e-3)
    assert after < before
    task.export(tmp_path / "out")
    loaded = load_base(str(tmp_path / "out"))
    denoiser = getattr(loaded, base_spec(each.name).denoiser)
    assert all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), task.model.parameters(), strict=True))


def test_settings_of_a_base_contradict_each_other():
    with pytest.raises(MotionRAGError, match=r"init .* or vae"):
        parse(BaseSettings, {"data": {"cache": "c"}}, "test")
    with pytest.raises(MotionRAGError, match="only the tiny base is made anew"):
        parse(BaseSettings, {"data": {"cache": "c"}, "vae": "v", "base": "svd"}, "test")
