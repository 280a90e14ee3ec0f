"""CogVideoX image-to-video: the joint text and video attention of every transformer block."""

from motionrag.types import BaseSpec

SPEC = BaseSpec(
    name="cogvideox",
    repository="zai-org/CogVideoX-5b-I2V",
    license="cogvideox",
    pipeline="CogVideoXImageToVideoPipeline",
    denoiser="transformer",
    denoiser_class="CogVideoXTransformer3DModel",
    sites=r"transformer_blocks\.\d+\.attn1",
    guided=lambda pipe: bool(pipe.guidance_scale > 1),
)
