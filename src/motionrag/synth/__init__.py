"""The simulated corpus: shaded objects that move over varied backgrounds, with captions and their true paths.

Appearance and motion are independent, every clip is fixed by a seed and its number, and the families of
motion are split into known ones, which trainings see, and unseen ones, which they do not.
"""

from motionrag.synth.corpus import Scene, SynthBatch, chosen, draw, render, scenes, truth
from motionrag.synth.motions import Family, families

__all__ = ["Family", "Scene", "SynthBatch", "chosen", "draw", "families", "render", "scenes", "truth"]
