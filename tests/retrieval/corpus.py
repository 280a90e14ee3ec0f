"""Small real videos with captions: a textured square on a textured ground, each unlike the others."""

import json

import numpy as np

from motionrag.video import write_video

CAPTIONS = [
    "Open the drawer of the desk",
    "Close the drawer of the desk",
    "Open the lid of the red box",
    "Close the lid of the red box",
    "Push the cup to the left",
    "Pull the cup to the right",
    "Pour water into the cup",
    "Fold the towel on the desk",
    "Pick up the cup from the desk",
    "Put the cup on the desk",
    "Wipe the desk with the towel",
    "Stack the boxes on the desk",
]


def frames(seed, count=12, height=48, width=64):
    """u8 [T,3,H,W]: a square that moves along a path of its own."""
    random = np.random.default_rng(seed)
    ground = np.kron(random.integers(0, 160, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    colour = random.integers(180, 255, 3)
    start, end = random.uniform(0.05, 0.7, (2, 2)) * (height, width)
    film = np.repeat(ground[None], count, 0).astype(np.uint8)
    for i, (y, x) in enumerate(np.linspace(start, end, count).astype(int)):
        film[i, y : y + 16, x : x + 16] = colour
    return np.moveaxis(film, -1, 1)


def write(path, seed, fps=12, **options):
    write_video(path, frames(seed, **options), fps)
    return path


def make_corpus(folder, count=12, suffix=".mp4"):
    """A folder with `count` clips and captions.jsonl."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        name = f"videos/clip_{i:03d}{suffix}"
        write(folder / name, seed=i)
        lines.append({"video": name, "caption": CAPTIONS[i % len(CAPTIONS)], "lab": f"lab{i % 3}", "take": i})
    write_captions(folder, lines)
    return folder


def write_captions(folder, lines):
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_captions(folder):
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
