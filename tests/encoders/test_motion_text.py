"""The caption encoder: motion decides, wherever in a caption it is said; nothing is cut; explanations add up."""

import numpy as np
import pytest
import torch

from motionrag import MotionRAGError
from motionrag.encoders.motion_network import MotionText, pack, tokenizer, unpack
from motionrag.encoders.motion_text import WINDOW, load_motion_text
from motionrag.encoders.sentences import sentences
from motionrag.encoders.text import minilm_folder
from motionrag.registry import embedded

SCENE = [
    "The video shows a whitewashed kitchen in the morning, with a red kettle on the stove and a cat on the sill.",
    "A woman of about forty in a green cardigan stands at the sink.",
    "A radio, two mugs and a bowl of lemons are on the table.",
    "The camera remains fixed at eye level, and the mood is calm.",
]
LONG = " ".join(f"Beside it hangs a small painting of a harbour in shade number {i} of blue." for i in range(40))


@pytest.fixture(scope="module")
def encoder():
    return load_motion_text()


def test_vectors_have_length_one_and_do_not_depend_on_their_batch(encoder):
    texts = [*SCENE, " ".join(SCENE), f"{LONG} A dog jumps over the fence.", "🎾", "球が転がる"]
    together = encoder.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(together, np.concatenate([encoder.encode([text]) for text in texts]), atol=1e-5)
    assert (together.dtype, together.shape) == (np.float32, (len(texts), 872))
    assert encoder.encode([]).shape == (0, 872)


@pytest.mark.parametrize(
    ("prompt", "same", "other"),
    [
        ("open the drawer", "a nurse pulls the cupboard doors apart", "a nurse pushes the drawer shut"),
        ("the camera zooms in on the garden", "Harbour at dusk, slow push closer", "the garden, zooming out"),
        (
            "a man sits down on a chair",
            "The dog lowers its hindquarters to the floor.",
            "a man gets up from a chair",
        ),
        ("water is poured into a cup", "tea streams from the pot", "someone drinks a cup of water"),
    ],
)
def test_motion_decides_before_things(encoder, prompt, same, other):
    (wanted,), (near, far) = encoder.encode_prompts([prompt]), encoder.encode([same, other])
    assert wanted @ near > wanted @ far


@pytest.mark.parametrize("place", range(len(SCENE) + 1))
def test_motion_counts_wherever_it_is_said(encoder, place):
    def caption(motion):
        return " ".join([*SCENE[:place], motion, *SCENE[place:]])

    prompts = encoder.encode_prompts(["somebody pours tea", "somebody opens a window"])
    captions = encoder.encode(
        [caption("She tips the pot and tea runs into a mug."), caption("She pushes the window open.")]
    )
    scores = prompts @ captions.T
    assert scores[0, 0] > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]


def test_nothing_is_cut_off_a_long_caption(encoder):
    assert len(tokenizer().encode(LONG).ids) > 2 * WINDOW
    pours, opens = (f"{LONG} {motion}" for motion in ("She pours tea into a mug.", "She pushes the window open."))
    prompts, captions = (
        encoder.encode_prompts(["somebody pours tea", "somebody opens a window"]),
        encoder.encode([pours, opens]),
    )
    scores = prompts @ captions.T
    assert scores[0, 0] > scores[0, 1] + 0.05
    assert scores[1, 1] > scores[1, 0] + 0.05


def test_an_explanation_adds_up_and_names_the_sentence(encoder):
    query = encoder.encode_prompts(["somebody pours tea"])[0]
    motion = "She tips the pot and tea runs into a mug."
    for text in (" ".join([*SCENE, motion]), f"{LONG} {motion}", motion, "tea", "\u200b", "\ufe0f. \x07."):
        why = encoder.explain(text, query)
        parts = why.sentences
        assert "".join(part.text for part in parts) == text
        assert sum(part.share for part in parts) == pytest.approx(1, abs=1e-4)
        assert sum(part.score for part in parts) == pytest.approx(float(encoder.encode([text])[0] @ query), abs=1e-4)
        assert motion not in text or max(parts, key=lambda part: part.score).text.strip() == motion


def test_opposites_stand_against_each_other_on_their_axis(encoder):
    query = encoder.encode_prompts(["open the drawer"])[0]
    same, other = (encoder.explain(f"A robot {verb}s the drawer.", query).axes for verb in ("open", "close"))
    assert next(iter(same)) == next(iter(other)) == "open_close"
    assert same["open_close"] > 0.1 > -0.1 > other["open_close"]


def test_what_cannot_be_encoded_is_refused(encoder):
    with pytest.raises(MotionRAGError, match="text 1 of 2 is empty"):
        encoder.encode(["a", " "])
    with pytest.raises(MotionRAGError, match="give a list of them"):
        encoder.encode("a")
    for use in (encoder.encode, lambda texts: encoder.explain(texts[0], encoder.encode(["a"])[0])):
        with pytest.raises(MotionRAGError, match="it holds half a character"):
            use(["a \ud83c man"])


def test_a_caption_of_a_hundred_thousand_words_is_encoded_and_explained_in_parts(encoder):
    text = "The wall is blue. " * 25_000 + "A dog jumps over the fence."
    windows = encoder._windows(tokenizer().encode(text, add_special_tokens=False).ids)
    assert sum(len(window) - 2 for window in windows) == 25_000 * 5 + 7
    short = "The wall is blue. " * 2_500 + "A dog jumps over the fence."
    why = encoder.explain(short, encoder.encode_prompts(["a dog jumps"])[0])
    assert max(why.sentences, key=lambda part: part.score).text.strip() == "A dog jumps over the fence."


def test_the_weights_are_small_and_lie_within_a_step():
    assert sum(file.stat().st_size for file in embedded("captions").rglob("*.safetensors")) <= 12e6
    network = MotionText(minilm_folder())
    with torch.no_grad():
        for parameter in network.bert.encoder.layer[5].parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    packed = pack(network)
    assert all(".layer.5." in name for name in packed)
    unpack(copy := MotionText(minilm_folder()), packed)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(copy.state_dict()[name], tensor, atol=2e-4, rtol=0)
    lower = pack(network, 4)
    name = "bert.encoder.layer.5.intermediate.dense.weight"
    assert sum(part.numel() for part in lower.values()) < sum(part.numel() for part in packed.values()) / 10
    for damaged in (
        {"head.weight": torch.zeros(2)},
        {f"{name}.left": lower[f"{name}.left"]},
        {**lower, f"{name}.right": torch.zeros(3, 384)},
        {name: packed[name], f"{name}.size": torch.ones(7, 1)},
    ):
        with pytest.raises(MotionRAGError, match="is not in MiniLM at that size"):
            unpack(copy, damaged)


def test_it_moves_without_taking_others_along():
    encoder, other = load_motion_text(), load_motion_text()
    shared = encoder._networks
    encoder.to("meta")
    assert encoder._device.type == "meta"
    assert other._device.type == "cpu"
    encoder.to("cpu")
    assert encoder._networks is shared


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("no end", 1),
        ("A man, approx. 40, walks. He is Mr. Jones.", 2),
        ("50 f/1.8, 4k\nsecond line", 2),
        ('He says "stop." Then he goes...', 2),
        ("  . ", 1),
        ("walks.The camera pans", 1),
        ("In 2019. He says no. 1. Open it.", 3),
        ("球が転がる。人が走る。", 2),
        ("a. " * 8000, 1),
        ("." * 16000 + "x", 1),
    ],
)
def test_sentences_are_the_whole_text(text, count):
    spans = sentences(text)
    assert len(spans) == count
    assert "".join(text[a:b] for a, b in spans) == text
