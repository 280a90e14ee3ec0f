"""Protects the training targets: each is what the diffusers scheduler of that base steps back to x_0 with."""

import itertools

import diffusers
import pytest
import torch

from motionrag.bases import tiny
from motionrag.bases.dynamicrafter.scheduler import DynamiCrafterScheduler
from motionrag.errors import MotionRAGError
from motionrag.testing import random_tensor
from motionrag.training import objectives
from motionrag.training.objectives import ObjectiveSettings, denoising_loss, motion_weights, objective_of

X0 = random_tensor(8, 4, 3, 2, 2, seed=3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def over(values):
    return values.view(-1, 1, 1, 1, 1)


def svd_scheduler():
    return diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("cls", [diffusers.CogVideoXDDIMScheduler, diffusers.CogVideoXDPMScheduler])
def test_discrete_targets_are_the_schedulers_own(cls, prediction):
    zero_snr = prediction == "v_prediction"
    scheduler = cls(prediction_type=prediction, rescale_betas_zero_snr=zero_snr, timestep_spacing="trailing")
    noised = objective_of(scheduler, ObjectiveSettings())(X0, seeded())
    a = over(scheduler.alphas_cumprod[noised.timestep].float())
    noise = noised.target if prediction == "epsilon" else a.sqrt() * noised.target + (1 - a).sqrt() * noised.sample
    assert torch.allclose(noised.sample, scheduler.add_noise(X0, noise, noised.timestep), atol=1e-5)
    if prediction == "v_prediction":
        assert torch.allclose(noised.target, scheduler.get_velocity(X0, noise, noised.timestep), atol=1e-5)
        assert scheduler.alphas_cumprod[-1] == 0  # the terminal SNR, and with it the last step, is trained on
    assert len(set(noised.timestep.tolist())) == 8
    assert noised.timestep.max() > 800
    assert noised.timestep.min() < 200


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_a_perfect_prediction_of_shrunken_latents_is_what_its_sampler_steps_with(prediction):
    """DynamiCrafter: what the network is taught is what its sampler steps back to the clean latents with."""
    scheduler = DynamiCrafterScheduler(
        prediction_type=prediction, rescale_betas_zero_snr=prediction == "v_prediction", base_scale=0.3
    )
    noised = objective_of(scheduler, ObjectiveSettings())(X0, seeded())
    clean = over(scheduler.latent_scale[noised.timestep].float()) * X0
    a = over(scheduler.alphas_cumprod[noised.timestep])
    noise = noised.target if prediction == "epsilon" else a.sqrt() * noised.target + (1 - a).sqrt() * noised.sample
    assert torch.allclose(noised.sample, a.sqrt() * clean + (1 - a).sqrt() * noise, atol=1e-5)
    assert scheduler.latent_scale[noised.timestep].min() == pytest.approx(0.3)
    if prediction == "epsilon":
        return  # of what it knows at the last step there is nothing left
    assert scheduler.alphas_cumprod[-1] == 0
    scheduler.set_timesteps(20)
    noise = random_tensor(*X0.shape, seed=5)

    def noised_at(t):
        a = scheduler.alphas_cumprod[t]
        clean = scheduler.latent_scale[t].float() * X0
        return a.sqrt() * clean + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * clean

    for t, following in itertools.pairwise(scheduler.timesteps):
        x, velocity = noised_at(t)
        assert torch.allclose(scheduler.step(velocity, t, x).prev_sample, noised_at(following)[0], atol=1e-4)


@pytest.mark.parametrize("scheduler", [tiny.scheduler(), diffusers.FlowMatchEulerDiscreteScheduler()])
def test_a_perfect_flow_prediction_samples_x0(scheduler):
    objective = objective_of(scheduler, ObjectiveSettings())
    noised = objective(X0, seeded())
    sigma = over(noised.timestep / 1000)
    assert torch.allclose(noised.sample - sigma * noised.target, X0, atol=1e-5)
    scheduler.set_timesteps(6)
    x = random_tensor(*X0.shape, seed=5)
    for t in scheduler.timesteps:
        s = t / 1000
        x = scheduler.step(objectives_target(x, s), t, x).prev_sample
    assert torch.allclose(x, X0, atol=1e-2)


def objectives_target(x, sigma):
    """What a perfect network answers: the noise that x holds, less x_0."""
    return (x - X0) / sigma


def test_edm_is_what_svds_scheduler_undoes():
    scheduler = svd_scheduler()
    scheduler.set_timesteps(8)
    for i, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i].expand(8)
        noised = objectives.edm(X0, sigma, seeded(i))
        noise = noise_of(i)
        assert torch.allclose(noised.timestep, t.expand(8), atol=1e-4)
        x = X0 + over(sigma) * noise
        assert torch.allclose(noised.sample, scheduler.scale_model_input(x, t), rtol=1e-4, atol=1e-5)
        back = scheduler.step(noised.target, t, x).pred_original_sample
        assert torch.allclose(back, X0, atol=2e-3 * max(1.0, float(sigma[0]) / 10))


def noise_of(seed):
    return torch.randn(X0.shape, generator=seeded(seed))


def test_noise_levels_have_the_published_distributions():
    logs = objectives.edm_levels(4096, seeded()).log()
    assert logs.mean() == pytest.approx(0.7, abs=0.02)
    assert logs.std() == pytest.approx(1.6, abs=0.02)
    plain = objectives.flow_levels(4096, ObjectiveSettings(levels="logit-normal"), seeded())
    assert plain.logit().std() == pytest.approx(1.0, abs=0.02)
    shifted = objectives.flow_levels(4096, ObjectiveSettings(levels="logit-normal", shift=3.0), seeded())
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain))


def test_the_same_generator_gives_the_same_sample():
    objective = objective_of(svd_scheduler(), ObjectiveSettings())
    assert all(torch.equal(a, b) for a, b in zip(objective(X0, seeded(1)), objective(X0, seeded(1)), strict=True))
    assert not torch.equal(objective(X0, seeded(1)).sample, objective(X0, seeded(2)).sample)


def test_moving_parts_weigh_more_and_clips_alike():
    x0 = torch.zeros(2, 4, 3, 4, 4)
    x0[0, 2:, :, 1, 1] = 1.0  # something appears there; the second clip stands still
    weights = motion_weights(x0, 2.0)
    assert torch.allclose(weights.mean(dim=(1, 2, 3, 4)), torch.ones(2))
    assert weights[0, 3, 0, 1, 1] > 5 * weights[0, 3, 0, 0, 0]
    assert torch.equal(weights[1], torch.ones_like(weights[1]))
    noised = objectives.rectified_flow(x0, torch.full((2,), 0.5), seeded())
    wrong_there = noised.target.clone()
    wrong_there[0, 3, :, 1, 1] += 1
    assert denoising_loss(wrong_there, noised, x0, 2.0) > 5 * denoising_loss(wrong_there, noised, x0)
    assert denoising_loss(noised.target, noised, x0, 2.0) == 0


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(MotionRAGError, match="levels and shift belong to rectified flow"):
        objective_of(svd_scheduler(), ObjectiveSettings(shift=3.0))
    with pytest.raises(MotionRAGError, match="EulerDiscreteScheduler predicts 'sample'"):
        objective_of(diffusers.EulerDiscreteScheduler(prediction_type="sample"), ObjectiveSettings())
    with pytest.raises(MotionRAGError, match="motion_weight=-1"):
        ObjectiveSettings(motion_weight=-1)
