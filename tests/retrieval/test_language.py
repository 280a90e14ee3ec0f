"""Captions taken apart into actions: the same motion is found however it is said, and things are not motions."""

import re
import time
from importlib.resources import files

import pytest
import yaml

from motionrag.retrieval import language
from motionrag.retrieval.language import actions
from motionrag.retrieval.lexicon import DIRECTION_AXES, inflections, lexicon, read_item


def value(caption: str, axis: str) -> float:
    """What a caption says on an axis, all its actions together."""
    return sum(action.weight * action.axes.get(axis, 0.0) for action in actions(caption))


OPPOSITES = [
    ("open_close", "A nurse opens the window", "A nurse closes the window"),
    ("open_close", "the guard slides the gate open", "the guard slides the gate shut"),
    ("open_close", "she pulls the drawer open", "she pulls the drawer closed"),
    ("open_close", "the hatch is being opened", "the hatch is being closed"),
    ("open_close", "he lifts the lid", "he lowers the lid"),
    ("push", "a goat pushes a barrel", "a goat pulls a barrel"),
    ("left_right", "the tram slides to the left", "the tram slides to the right"),
    ("left_right", "a vase moves leftward", "a vase moves rightward"),
    ("left_right", "the puck glides from right to left", "the puck glides from left to right"),
    ("camera_pan", "the camera pans left", "the camera pans right"),
    ("camera_pan", "a slow pan to the left", "a slow pan to the right"),
    ("camera_pan", "the view sweeps leftwards", "the view sweeps rightwards"),
    ("camera_zoom", "zoom in on the clock", "zoom out from the clock"),
    ("camera_zoom", "the camera moves closer to her", "the camera pulls back to reveal the town"),
    ("camera_zoom", "the shot tightens on the ring", "the shot widens to the whole room"),
    ("camera_zoom", "a smooth dolly-in", "a smooth dolly-out"),
    ("camera_tilt", "the camera tilts up", "the camera tilts down"),
    ("sit_stand", "the pilot stands up", "the pilot sits down"),
    ("sit_stand", "she gets to her feet", "she takes a seat"),
    ("grow_shrink", "the pumpkin gets bigger", "the pumpkin gets smaller"),
    ("grow_shrink", "a tyre inflates", "a tyre deflates"),
    ("vertical", "the lift goes up", "the lift goes down"),
    ("throw_catch", "he throws the keys", "he catches the keys"),
    ("clockwise", "turn the dial clockwise", "turn the dial counterclockwise"),
    ("appear", "a ghost appears", "a ghost disappears"),
    ("fold", "fold the map", "unfold the map"),
]


@pytest.mark.parametrize(("axis", "plus", "minus"), OPPOSITES)
def test_opposites_have_opposite_signs(axis: str, plus: str, minus: str) -> None:
    # zoom in is plus, push is plus, right is plus: the pairs are given as the lexicon and DIRECTIONS sign them
    first, second = value(plus, axis), value(minus, axis)
    assert first * second < 0, (first, second)


FAMILIES = {
    "walk": [
        "a monk walks home",
        "a monk walked home",
        "a monk is walking home",
        "a monk, walking home",
        "walk along the shore",
    ],
    "jump": ["the goat jumps", "the goat jumped over a log", "a goat leaping", "a goat does a backflip", "leap!"],
    "smile": ["she smiles", "she bursts out laughing", "he breaks into a grin", "a smile spreads over his face"],
    "wave_hand": ["the pilot waves at us", "the pilot gives a little wave", "a pilot waving goodbye"],
    "eat": ["he sips tea", "he takes a sip of tea", "the tea is sipped", "a mule munching on hay"],
    "melt": ["the wax melts", "the wax begins to melt", "the wax has melted", "melting wax", "the wax is melting"],
    "swing": ["reeds sway", "reeds start swaying", "reeds are seen swaying in the breeze", "swaying reeds"],
    "explode": ["the kiln explodes", "the kiln blew up", "the kiln bursts into pieces", "the crate is blown apart"],
    "burn": ["the letter burns", "the barn is on fire", "the barn goes up in flames", "flames lick a beam"],
    "pour": [
        "pour the milk",
        "milk is poured into a cup",
        "she is pouring milk",
        "he tips the bucket into the sink",
    ],
    "head_turn": [
        "the owl turns its head",
        "her head turns slowly",
        "he looks over his shoulder",
        "turning her head",
    ],
    "rotate": ["a globe spins", "the wheel turns slowly", "a rotating statue", "the dish makes a full rotation"],
    "roll": ["the drum rolls downhill", "she sends the ball rolling", "a coin rolling across the desk"],
    "run": ["the boy runs", "the boy breaks into a run", "make the boy run across the field", "they ran"],
    "open_close": ["the door opens", "the door is open", "a hand pulls the door open", "he unzips the tent"],
    "camera_orbit": ["the camera orbits the statue", "the camera circles around him"],
    "camera_follow": ["the camera follows the bus", "the camera tracks the runner"],
    "time_lapse": ["a timelapse of the harbour"],
}


@pytest.mark.parametrize(("axis", "caption"), [(axis, c) for axis, captions in FAMILIES.items() for c in captions])
def test_phrasings_of_a_motion_agree(axis: str, caption: str) -> None:
    assert value(caption, axis) > 0.2, actions(caption)


OPENINGS = [
    "the tutor eases the cupboard door outward",
    "a claw pries up the lid of a paint tin",
    "the top drawer slides out",
    "draw out the lowest drawer",
    "the hatch is swung aside",
    "the window is slid upwards",
    "the flap of the suitcase is flipped back",
    "she swings the freezer wide",
    "the cover pops up",
    "open hatch",
    "open drawer and put glove inside",
]
CLOSINGS = [
    "the tutor nudges the drawer home",
    "shoving the lowest drawer back in",
    "the piano lid comes down",
    "the door swings to",
    "shut hatch",
    "close suitcase",
    "the hatch gets shut",
    "the hatch is shut and the light goes off",
    "a claw presses the lid back onto the tin",
    "the drawer gets pushed all the way in",
    "the suitcase is closed and carried away",
]


@pytest.mark.parametrize(("sign", "captions"), [(1, OPENINGS), (-1, CLOSINGS)])
def test_opening_and_closing_told_otherwise(sign: int, captions: list[str]) -> None:
    assert [c for c in captions if sign * value(c, "open_close") < 0.3] == []


def test_of_opposites_the_first_weighs_more() -> None:
    assert value("the hatch is shut and later opened again", "open_close") < 0
    assert value("the hatch is opened and later shut again", "open_close") > 0


@pytest.mark.parametrize(
    "caption",
    [
        "the heater gets switched on",
        "she puts out the lamp",
        "start up the printer",
        "switch lamp off",
        "the radio goes off",
        "somebody flips the breaker",
        "the fan is made to run",
    ],
)
def test_appliances_are_switched(caption: str) -> None:
    assert value(caption, "switch") > 0.3, actions(caption)


@pytest.mark.parametrize(
    ("axis", "caption"),
    [
        ("rotate", "twist the cap off the flask"),
        ("rotate", "unscrewing the lid of a tin"),
        ("rotate", "she gives the dial a twist"),
        ("extract", "the lid gets lifted off the tin"),
        ("place", "the lid is fitted on the tin"),
        ("grasp", "the glove gets taken from the shelf"),
        ("grasp", "grab glove"),
        ("place", "the glove ends up on the shelf"),
        ("place", "the arm lets the pebble fall into the jug"),
        ("place", "the glove is picked up and left on the shelf"),
        ("wipe", "a hand goes round and round the plate with a rag"),
        ("press", "hit the escape key"),
        ("fold", "bring both corners of the blanket together"),
        ("stack", "put the coins one on top of another"),
        ("push", "the arm reaches the stool and drives it away"),
    ],
)
def test_families_of_phrasings(axis: str, caption: str) -> None:
    assert value(caption, axis) > 0.2, actions(caption)


@pytest.mark.parametrize(
    ("verb", "caption"),
    [
        ("twist off", "The arm reaches for the flask, holds it and twists off the cap"),
        ("raise", "The hand comes down over a pebble, takes hold of it and raises it"),
        ("wipe", "The gripper moves forward, touches the glass and wipes it"),
        ("pull", "The claw approaches, hooks the ring and pulls it"),
    ],
)
def test_the_way_there_weighs_less(verb: str, caption: str) -> None:
    assert actions(caption)[0].verb == verb


def test_it_is_what_was_named_last() -> None:
    assert value("The arm grips the drawer and slides it out", "open_close") > 0.3
    assert value("The arm grips the glove and slides it out", "open_close") == 0


@pytest.mark.parametrize(
    "caption",
    [
        "put the cup on the left",
        "open the left door",
        "a lamp stands on the right",
        "the right drawer is closed by a robot",
    ],
)
def test_places_are_no_directions(caption: str) -> None:
    assert value(caption, "left_right") == 0


@pytest.mark.parametrize("particle", ["picks up the cup", "sits down on a rug", "walks up to the desk"])
def test_particles_of_a_verb_are_no_directions(particle: str) -> None:
    assert value(f"the robot {particle}", "vertical") < 0.3
    assert value(f"the robot {particle}", "vertical") > -0.3


@pytest.mark.parametrize(
    "caption",
    [
        "The camera remains static.",
        "The camera does not move.",
        "Nothing moves.",
        "the swing",
        "a jump rope lies on the floor",
        "a light switch on the wall",
        "the book",
        "a frying pan is on the stove",
        "A man in a blue coat stands next to a parked car.",
    ],
)
def test_no_motion_has_no_axes(caption: str) -> None:
    strongest = max((action.weight for action in actions(caption) if action.axes), default=0.0)
    assert strongest < 0.3, actions(caption)


def test_motion_outweighs_the_scene() -> None:
    """The scene comes first in long captions; what moves must still come first in the result."""
    caption = (
        "The video shows a wide room with painted walls, filled with chairs. A man in a cap is seen near a table. "
        "He carefully folds a napkin. The camera remains static."
    )
    assert actions(caption)[0].verb == "fold"


def test_preparing_weighs_less_than_the_act() -> None:
    assert actions("The arm grips the handle and rotates it")[0].verb == "rotate"


def test_subordinate_weighs_less() -> None:
    first, second = actions("a girl dances while the wind blows")
    assert (first.verb, second.verb) == ("dance", "blow")
    assert first.weight > second.weight


def test_things_are_left_out_of_the_text() -> None:
    assert actions("Put the marker in the mug")[0].text == "put something in something"


@pytest.mark.parametrize(
    "caption",
    ["", " ", "...", "?! ,,", "クジラが海に跳ぶ", "поезд мчится", "🎉🎉", "\x00", "-" * 500, "'s 's", "a" * 5000],
)
def test_what_is_no_english_gives_nothing(caption: str) -> None:
    assert actions(caption) == []


@pytest.mark.parametrize("caption", ["run " * 5000, "the dog runs and " * 2000, "word " * 5000, "x-" * 3000 + "up"])
def test_long_captions_take_bounded_time(caption: str) -> None:
    started = time.perf_counter()
    assert len(actions(caption)) <= language.ACTIONS
    assert time.perf_counter() - started < 2


def test_case_and_contractions_do_not_matter() -> None:
    assert actions("HE IS OPENING THE DOOR") == actions("he's opening the door")
    assert not any(action.axes for action in actions("it isn\u2019t moving"))


def test_weights_fall_and_lie_in_range() -> None:
    weights = [action.weight for action in actions("He runs, jumps, rolls, spins and waves.")]
    assert weights == sorted(weights, reverse=True)
    assert all(0 < weight <= 1 for weight in weights)


@pytest.mark.parametrize(
    ("verb", "forms"),
    [
        ("spin", {"spins", "spinning"}),
        ("wipe", {"wipes", "wiped", "wiping"}),
        ("carry", {"carries", "carried", "carrying"}),
        ("tie", {"ties", "tied", "tying"}),
        ("push", {"pushes", "pushed", "pushing"}),
        ("dye", {"dyed", "dyeing"}),
        ("panic", {"panicked", "panicking"}),
        ("play", {"plays", "played", "playing"}),
    ],
)
def test_inflections(verb: str, forms: set[str]) -> None:
    assert forms <= set(inflections(verb))


def test_lexicon_is_well_formed() -> None:
    """Loading validates every entry; the rest of what a reader of the file expects is held here."""
    text = files("motionrag.retrieval").joinpath("motion_lexicon.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    assert all(sides["plus"] for sides in document["axes"].values())
    assert max(map(len, text.splitlines())) <= 117
    assert not set(lexicon().axes) & set(DIRECTION_AXES)
    for name, found in {**document["lists"], "no_motion": document["no_motion"]}.items():
        assert len(found) == len(set(found)), name
    assert not set(document["lists"]["nouns"]) & set(document["lists"]["completions"])
    for entries in lexicon().entries.values():
        for entry in entries:
            assert all(0 < abs(weight) <= 1 for weight in entry.axes.values())
    assert set(document["groups"]) <= set(re.findall(r"<(\w+)>", text)), "a group that no entry uses"


def test_nouns_of_motion_have_a_verb_of_the_lexicon() -> None:
    lex = lexicon()
    unknown = {noun for noun, verb in lex.nouns.items() if verb.split()[0] not in lex.entries}
    assert not unknown


def test_alternatives_are_entries_each() -> None:
    ways, weight = read_item("push|shove <lid> in|home:0.5", {"lid": frozenset({"lid"})})
    assert ways == ["push <lid> in", "push <lid> home", "shove <lid> in", "shove <lid> home"]
    assert weight == 0.5


@pytest.mark.parametrize("item", ["open:2", "open <nowhere>", "*", "Open", "open:", "pull|", 3, None])
def test_malformed_entries_are_refused(item: object) -> None:
    with pytest.raises(ValueError, match="motion lexicon"):
        read_item(item, {"lid": frozenset({"lid"})})


@pytest.mark.parametrize(
    ("caption", "axis", "value"),
    [
        ("a ball hops like a rabbit high three times to the left", "extent", 0.5),
        ("a ball hops like a rabbit high three times to the left", "count", 0.6),
        ("a ball hops like a rabbit high three times to the left", "left_right", -1.0),
        ("a large ball hops low twice on a big checkerboard", "extent", -0.5),
        ("a big dog walks past", "extent", 0.0),
        ("a man puts the cup on the big table", "extent", 0.0),
        ("a plane flies a big circle in the sky", "extent", 0.5),
        ("a plane flies in a wide curve to the right", "extent", 0.5),
        ("she turns around once", "count", -0.25),
        ("she smiles once he has left", "count", 0.0),
        ("a drone speeds up the road faster and faster", "quickening", 0.5),
        ("a guard paces twice starting to the right", "left_right", 1.0),
        ("a bee orbits the flower counterclockwise", "clockwise", -0.5),
        ("a bee orbits the flower", "orbit", 1.0),
    ],
)
def test_how_far_and_how_often_are_heard(caption: str, axis: str, value: float) -> None:
    """Of the motion; the size of things says nothing of it."""
    assert actions(caption)[0].axes.get(axis, 0.0) == pytest.approx(value, abs=0.05)


def test_the_way_of_a_motion_is_kept_in_its_text() -> None:
    assert actions("a jet flies in one steep arc over a teal sea")[0].text == "fly in steep arc over something"
