"""The caption encoder's training: its text is understood, its batches hold what is to be told apart, it learns."""

import json
import re
from pathlib import Path

import pytest
import torch

from motionrag import MotionRAGError, checkpoint
from motionrag.cli import main
from motionrag.encoders.motion_network import MotionText, load_network, unpack
from motionrag.encoders.text import minilm_folder
from motionrag.training.captions import CaptionSettings, CaptionsTask
from motionrag.training.texts import Batches, BatchSettings, held_out, opposites, read_axes, read_texts, text_key

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "recipes/captions/texts"
GROUP = """# opening a door
opposite: closing a door
- open the door
- the door swings wide
- a gate is pulled open
- someone draws the hatch back
> a boy opens the barn door
= A barn at noon. A boy in a straw hat pulls the door until the hay can be seen. A dog sleeps.
> a nurse opens the ward door
= The clip shows a ward. A nurse leans on the door and it turns back to the wall.

# closing a door
opposite: opening a door
- close the door
- the door falls shut
- a gate is pushed to
- someone draws the hatch over
> a boy closes the barn door
= A barn at noon. A boy in a straw hat pushes the door until the hay is hidden. A dog sleeps.
> a nurse closes the ward door
= The clip shows a ward. A nurse leans on the door and it falls into its frame.
"""
SMALL = BatchSettings(groups=4, pairs=1.0, wrapped=1.0)


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("one", "two"):  # held out are tenths of the motions: names are chosen so that both sides have some
        for number in range(12):
            (folder / f"{name}.txt").open("a").write(GROUP.replace("a door", f"{name} door {number}") + "\n")
    (folder / "scenery.list").write_text("A lamp hangs above.\nThe wall is blue.\n")
    values = {"open the door": "open_close=1.00", "close the door": "open_close=-1.00 swing=0.10"}
    values["a boy closes the barn door"] = values["close the door"]
    (folder / "axes.tsv").write_text("".join(f"{text_key(text)}\t{value}\n" for text, value in values.items()))
    return folder


def test_all_of_the_training_text_is_understood():
    groups, scenery = read_texts(TEXTS)
    assert len(groups) > 1500
    assert len(scenery) == 900
    axes, values = read_axes(TEXTS)
    texts = {text_key(text) for group in groups for text in (*group.shorts, *(prompt for prompt, _ in group.pairs))}
    assert len(axes) > 90
    assert values.keys() <= texts
    assert sum(len(group.pairs) for group in groups) > 3800
    training, out = held_out(groups)
    assert 0.05 < len(out) / len(groups) < 0.15
    turned = opposites(groups)
    assert not {group.motion for group in training} & {group.motion for group in out}
    assert all((other in out) == (group in out) for group in out if (other := turned.get(id(group))) and other.pairs)
    for group in groups:
        if (other := turned.get(id(group))) is not None:
            assert other.motion != group.motion, group.name


def plain(text):
    """Without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))


def test_no_text_of_the_benchmark_is_trained_on():
    known = {
        plain(text)
        for group in read_texts(TEXTS)[0]
        for text in (*group.shorts, *(t for p in group.pairs for t in p))
    }
    shared = ROOT.parent / "shared/data"
    files = [
        *(ROOT / "benchmarks/data").glob("*.jsonl"),
        *shared.glob("prompts/*.jsonl"),
        shared / "droid/captions.jsonl",
    ]
    for path in (path for path in files if path.exists()):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts = (row.get("prompt"), row.get("caption"), row.get("text"), *row.get("captions", []))
            assert not {plain(text) for text in texts if text} & known, path


def test_batches_hold_opposites_in_the_same_scenes_and_follow_their_seed(texts):
    groups, scenery = read_texts(texts)
    batches = Batches(groups, scenery, SMALL)
    told = batches(torch.Generator().manual_seed(0))
    assert told == batches(torch.Generator().manual_seed(0)) != batches(torch.Generator().manual_seed(1))
    turned = opposites(groups)
    named = {id(one.group) for one in told}
    assert all(id(turned[id(one.group)]) in named for one in told)
    scenes = [
        {one.clip[2] for one in told if one.group is group and one.clip[1] == "clip"}
        for group in {id(one.group): one.group for one in told}.values()
    ]
    assert all(scene <= {0, 1} and scene for scene in scenes)
    assert any("A lamp hangs above." in one.text or "The wall is blue." in one.text for one in told)


def test_texts_are_placed_on_axes_and_captions_where_their_prompts_are(texts):
    task = CaptionsTask(CaptionSettings(texts=str(texts), batch=SMALL))
    assert task.axes == ["open_close", "swing"]
    placed, known = dict[str, list[float]](), dict[str, bool]()
    for seed in range(4):  # a batch has one or two of a group's pairs
        batch = task.batch(1, torch.Generator().manual_seed(seed))
        decoded = [task.tokenizer.decode([token for token in ids if token]) for ids in batch["ids"].tolist()]
        placed |= dict(zip(decoded, batch["axes"].tolist(), strict=True))
        known |= dict(zip(decoded, batch["placed"].tolist(), strict=True))
    closed = pytest.approx([-1, 0.1])
    assert placed["close the door"] == placed["a boy closes the barn door"] == closed
    assert (
        next(value for text, value in placed.items() if text.startswith("a barn at noon") and "pushes" in text)
        == closed
    )
    assert any("close the door" in text and len(text) > 20 and value == closed for text, value in placed.items())
    assert not known["a nurse closes the ward door"]
    assert all(known[text] == any(placed[text]) for text in known)


def test_values_that_are_not_understood_and_other_axes(texts, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"task: captions\ntexts: {texts}\nfrozen: 5\nbatch: {{groups: 4, pairs: 0.5}}\n"
        "train: {steps: 1, batch: 1, lr: 1e-3, warmup: 1, ema: 0, sample_every: 0}\n"
    )
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    (texts / "axes.tsv").write_text("abc\tjump=1\n")
    with pytest.raises(MotionRAGError, match="places texts on other axes than"):
        CaptionsTask(CaptionSettings(texts=str(texts), init=str(tmp_path / "run/final")))
    for line in ("abc\tjump", "abc\tjump=far", "abc\tjump=1=2"):
        (texts / "axes.tsv").write_text(f"abc\tjump=1\n{line}\n")
        with pytest.raises(MotionRAGError, match=r"axes\.tsv: line 2 does not hold values on axes"):
            read_axes(texts)


def test_the_second_network_learns_without_attention_and_is_written_at_low_rank(texts, tmp_path):
    recipe = (ROOT / "recipes/captions/whole.yaml").read_text().replace("recipes/captions/texts", str(texts))
    (tmp_path / "whole.yaml").write_text(recipe.replace("groups: 48", "groups: 4"))
    command = ["train", str(tmp_path / "whole.yaml"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*command, "--set", "train.steps=2", "--set", "train.sample_every=0"]) == 0
    network = load_network(tmp_path / "run/final")
    before = MotionText(minilm_folder()).state_dict()
    changed = {name: value - before[name] for name, value in network.state_dict().items() if name in before}
    changed = {name: value for name, value in changed.items() if value.any()}
    assert changed
    assert not any(name.startswith("weigh.") or f".layer.{layer}." in name for name in changed for layer in range(3))
    assert all(torch.linalg.matrix_rank(value) <= 16 for value in changed.values() if value.dim() == 2)


def test_it_learns_resumes_and_exports(texts, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"task: captions\ntexts: {texts}\nfrozen: 4\nbatch: {{groups: 4, pairs: 0.5}}\n"
        "train: {steps: 6, batch: 1, lr: 1e-3, warmup: 1, ema: 0, sample_every: 0, save_every: 3}\n"
    )
    command = ["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*command, "--set", "train.steps=3"]) == 0
    assert main(command) == 0
    tuned, settings = checkpoint.load(tmp_path / "run/final/model.safetensors", tmp_path / "run/final/config.json")
    assert settings["recipe"] == "captions"
    assert not any(f".layer.{layer}." in name for name in tuned for layer in range(4))
    unpack(network := MotionText(minilm_folder(), settings["axes"]), tuned)
    task = CaptionsTask(CaptionSettings(texts=str(texts), batch=SMALL))
    batch = task.batch(1, torch.Generator().manual_seed(5))
    with torch.no_grad():
        before = float(task.loss(batch, torch.Generator())[0])
        task.network.load_state_dict(network.state_dict())
        assert float(task.loss(batch, torch.Generator())[0]) < before
    more = CaptionsTask(CaptionSettings(texts=str(texts), init=str(tmp_path / "run/final"), batch=SMALL))
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(more.network.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("- a text of no motion", "line 1 is out of place"),
        ("# name\nwords without a mark", "line 2 begins with 'words', which is no mark"),
        ("# name\n-", "line 2 is out of place or empty"),
        ("# name\n= a caption without a prompt", "line 2 is out of place"),
        ("# name\n> a prompt\n# other", "line 3 is out of place"),
        ("# name\n- text\n> a prompt", "its last prompt, 'a prompt', has no caption"),
        ("# name\nkind: a\nkind: b", "line 3 begins with 'kind:', which is no mark or comes a second time"),
        ("# only a name", "'only a name' has no short texts"),
    ],
)
def test_text_that_is_not_understood(tmp_path, line, message):
    (tmp_path / "a.txt").write_text(line)
    with pytest.raises(MotionRAGError, match=message):
        read_texts(tmp_path)
    with pytest.raises(MotionRAGError, match="holds no training text"):
        read_texts(tmp_path / "empty")
