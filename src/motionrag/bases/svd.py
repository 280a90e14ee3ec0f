"""Stable Video Diffusion: the 16 spatial cross-attentions of its UNet, not the temporal ones."""

from motionrag.types import BaseSpec

SPEC = BaseSpec(
    name="svd",
    repository="stabilityai/stable-video-diffusion-img2vid-xt",
    license="stable-video-diffusion-community",
    pipeline="StableVideoDiffusionPipeline",
    denoiser="unet",
    denoiser_class="UNetSpatioTemporalConditionModel",
    sites=r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn2",
    guided=lambda pipe: bool(pipe.do_classifier_free_guidance),
)
