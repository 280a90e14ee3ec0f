"""DynamiCrafter: its UNet, image resampler, sampler and pipeline, and the conversion of the released checkpoints."""
