"""A new adapter begins with each frame's places attending to that frame's token."""

import pytest
import torch
from torch import nn

from motionrag.errors import MotionRAGError
from motionrag.models.adapter import MotionAdapter
from motionrag.training.alignment import align_frames

FRAMES, PLACES, WIDTH, HEADS = 4, 6, 32, 2


class Layer(nn.Module):
    """An attention layer as far as an adapter needs one."""

    def __init__(self):
        super().__init__()
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, hidden):
        return self.to_out[0](hidden)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn1 = Layer()

    def forward(self, hidden):
        return self.attn1(hidden)


def made(generator):
    """Hidden states [B,L,W] that say which frame they are of, after three places of text; and tokens likewise."""

    def noisy(codes, clips):
        return codes + 0.3 * torch.randn(clips, *codes.shape, generator=generator)

    frames = torch.randn(FRAMES, WIDTH, generator=generator)
    video = noisy(frames.repeat_interleave(PLACES, dim=0), 8)
    hidden = torch.cat([torch.randn(8, 3, WIDTH, generator=generator), video], dim=1)
    return hidden, noisy(torch.randn(FRAMES, 16, generator=generator), 50)


def test_each_frame_attends_to_its_own_token():
    generator = torch.Generator().manual_seed(0)
    hidden, tokens = made(generator)
    denoiser = Denoiser()
    adapter = MotionAdapter.for_denoiser(denoiser, base="tiny", sites="attn1", motion_dim=16)
    told = align_frames(adapter, denoiser, HEADS, tokens, lambda: denoiser(hidden))
    assert told["attn1"] > 0.8
    assert not denoiser.attn1.to_out[0]._forward_pre_hooks
    torch.nn.init.eye_(adapter.site("attn1").to_v.weight)
    attention = adapter.site("attn1").prepare(tokens[:1], HEADS)
    added = attention.add_to(hidden[:1]) - hidden[:1]
    values = attention.values.permute(0, 2, 1, 3).flatten(2)[0]  # [T,W], a frame's value
    own = values.repeat_interleave(PLACES, dim=0)
    assert (added[0, 3:] - own).norm() < 0.2 * own.norm()


def test_heads_too_narrow_for_the_frames_are_refused():
    hidden, tokens = made(torch.Generator().manual_seed(0))
    denoiser = Denoiser()
    adapter = MotionAdapter.for_denoiser(denoiser, base="tiny", sites="attn1", motion_dim=16)
    with pytest.raises(MotionRAGError, match="a head is 2 wide, 4 frames cannot be told apart"):
        align_frames(adapter, denoiser, 16, tokens, lambda: denoiser(hidden))
