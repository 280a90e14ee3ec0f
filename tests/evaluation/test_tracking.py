"""The tracker finds the object to a fraction of a pixel, is not fooled, and notices when the object melts."""

import pytest
import torch
import torch.nn.functional as F

from motionrag.evaluation.tracking import centroids, path_error, track
from motionrag.synth import families, render

NAMES = [name for name, family in families().items() if family.predictable]


@pytest.fixture(scope="module")
def clips():
    """Two of each predictable family."""
    return render(31, range(2 * len(NAMES)), NAMES)


@pytest.fixture(scope="module")
def tracked(clips):
    return follow(clips, clips.video)


def follow(clips, video):
    return track(video, clips.background, clips.mask[:, 0])


def u8(video):
    return video.clamp(0, 255).round().to(torch.uint8)


def blurred(video, sigma):
    line = torch.exp(-(torch.arange(-4, 5.0) ** 2) / (2 * sigma**2))
    kernel = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 9, 9)
    padded = F.pad(video.flatten(0, 1).float(), (4, 4, 4, 4), mode="replicate")
    return F.conv2d(padded, kernel, groups=3).view(video.shape)


def melting(video):
    """Bent more and more, each frame in another way."""
    generator = torch.Generator().manual_seed(0)
    B, T = video.shape[:2]
    field = F.interpolate(torch.randn(B * T, 2, 8, 8, generator=generator), size=64, mode="bicubic") * 0.08
    field = field.view(B, T, 2, 64, 64) * torch.linspace(0, 1, T)[:, None, None, None]
    straight = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 64, 64], align_corners=False)
    places = straight + field.flatten(0, 1).permute(0, 2, 3, 1)
    return u8(F.grid_sample(video.flatten(0, 1).float(), places, padding_mode="border", align_corners=False)).view(
        video.shape
    )


def check(clips, found):
    error = (found.centers - centroids(clips.mask)).norm(dim=-1).flatten()
    assert found.found.all()
    assert error.median() < 0.3
    assert error.quantile(0.99) < 1.5


def test_true_clips_are_followed_to_a_fraction_of_a_pixel(clips, tracked):
    check(clips, tracked)


def test_clips_that_a_vae_has_softened_too(clips):
    noise = torch.randn(clips.video.shape, generator=torch.Generator().manual_seed(0)) * 0.02 * 255
    check(clips, follow(clips, u8(blurred(clips.video, 0.8) + noise)))


def test_another_object_is_not_taken_for_it(clips, tracked):
    """A square of another colour crosses the picture from the second frame on."""
    video = clips.video.clone()
    main = torch.stack([torch.from_numpy(scene.look.main) for scene in clips.scenes])
    color = u8((main + 0.5) % 1.0 * 255)
    for t in range(1, 16):
        video[:, t, :, 4:14, 3 * t : 3 * t + 10] = color[:, :, None, None]
    covered = clips.mask[:, :, 4:14].sum(dim=(-2, -1)).amax(dim=1) > 0
    moved = (follow(clips, video).centers - tracked.centers).norm(dim=-1).amax(dim=1)
    assert moved[~covered].quantile(0.9) < 1.5


def test_an_object_that_vanishes_is_lost_and_found_again(clips):
    video = clips.video.clone()
    video[:, 5:9] = clips.background[:, None]
    found = follow(clips, video)
    assert not found.found[:, 5:9].any()
    assert (found.centers[:, 5:9] == found.centers[:, 4:5]).all()
    assert (found.similarity[:, 5:9] == 0).all()
    assert found.found[:, 9:].float().mean() > 0.99


def test_path_error_is_in_units_of_the_true_displacement(clips, tracked):
    moving = torch.tensor([scene.family.moves for scene in clips.scenes])
    true = centroids(clips.mask)[moving]
    assert path_error(tracked.centers[moving], true).mean() < 0.05
    line = torch.stack([torch.linspace(0, 10, 16), torch.zeros(16)], dim=-1)[None]
    assert path_error(line * 0, line).item() == pytest.approx(0.5)  # one that stays where it is


def test_likeness_is_1_for_a_still_and_falls_as_objects_melt(clips, tracked):
    still = follow(clips, clips.video[:, :1].expand_as(clips.video))
    assert still.similarity.min() == pytest.approx(1.0, abs=1e-4)
    true = tracked.similarity.mean()
    assert true > 0.85
    assert follow(clips, melting(clips.video)).similarity[:, -1].mean() < 0.75 * true
    video = clips.video.clone()
    video[:, 1:] = u8(blurred(clips.video[:, 1:], 2.0))
    assert follow(clips, video).similarity[:, 1:].mean() < 0.75 * true
