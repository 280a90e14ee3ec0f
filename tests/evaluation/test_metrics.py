"""Metrics: exact where sums are, the same in any order and over processes, and none of them is fooled by stills."""

import math
import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F

from motionrag.errors import MotionRAGError
from motionrag.evaluation.families import ClassifierConfig, FamilyClassifier
from motionrag.evaluation.features import Features, load_features
from motionrag.evaluation.held_out import held_out
from motionrag.evaluation.metrics import (
    FID,
    FVD,
    ActionScore,
    DynamicDegree,
    FamilyAccuracy,
    FirstFramePSNR,
    FirstFrameSimilarity,
    FirstFrameSSIM,
    FrameSimilarity,
    MotionKL,
    PathError,
    Seen,
    Targets,
    TemporalFlicker,
    TextVideoAlignment,
    frechet_distance,
    load_metrics,
)
from motionrag.evaluation.metrics import flow as flow_module
from motionrag.evaluation.metrics import motion as motion_module
from motionrag.evaluation.metrics import truth as truth_module
from motionrag.evaluation.metrics.flow import flow
from motionrag.evaluation.metrics.motion import magnitude_histograms
from motionrag.evaluation.metrics.picture import ssim

TINY = ["tiny-action", "tiny-dino", "tiny-fvd", "tiny-fid", "tiny-text-video", "tiny-first-frame-dino"]
PLAIN = ["motion-kl", "dynamic-degree", "flicker", "first-frame", "first-frame-ssim"]
SIMULATED = ["path-error", "likeness", "family-accuracy"]
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def true():
    return held_out("unseen", 6, 60)


@pytest.fixture(scope="module")
def targets(true):
    return Targets(
        true=true.clips.video, first=torch.from_numpy(true.images), prompts=true.prompts, scenes=true.clips
    )


@pytest.fixture(scope="module")
def worse(true):
    """Every clip goes half its way and back, under noise."""
    back = true.clips.video[:, [*range(9), *range(7, 0, -1)]]
    noise = torch.randn(back.shape, generator=torch.Generator().manual_seed(0)) * 2
    return (back + noise).clamp(0, 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def still(true):
    return true.clips.video[:, :1].expand(-1, 16, -1, -1, -1).contiguous()


@pytest.fixture(scope="module")
def metrics():
    return load_metrics([*TINY, *PLAIN, *SIMULATED])


def texture(frames=4, size=64, speed=2):
    """Blurred noise that moves to the right, u8 [1,T,3,H,W]."""
    wide = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (1, 3, size, size + frames * speed + 8)))
    smooth = F.avg_pool2d(F.avg_pool2d(wide, 5, 1, 2), 5, 1, 2)
    smooth = ((smooth / smooth.abs().max() + 1) / 2 * 255).round().to(torch.uint8)
    starts = [(frames - 1 - t) * speed for t in range(frames)]
    return torch.stack([smooth[..., start : start + size] for start in starts], dim=1)


def gaussian(count, mean, covariance):
    """Samples of exactly that mean and unbiased covariance."""
    raw = rng.normal(size=(count, len(mean)))
    raw -= raw.mean(axis=0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False)).T)
    return whitened @ np.linalg.cholesky(covariance).T + mean


def by_roots(x, y):
    """The Frechet distance as it is written, in float64."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * np.real(scipy.linalg.sqrtm(a @ b)))


# --- Frechet distance


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 12), (40, 60, 40), (41, 40, 39)])
def test_frechet_distance_is_that_of_matrix_roots(n, m, d):
    mix = rng.normal(size=(d, d))
    x, y = rng.normal(size=(n, d)) @ mix, rng.normal(size=(m, d)) @ mix * 1.3 + 0.5
    if min(n, m) > d:
        assert frechet_distance(x, y) == pytest.approx(by_roots(x, y), rel=1e-8)
    else:  # a root of a singular matrix is less exact than what it is compared with
        assert frechet_distance(x, y) == pytest.approx(by_roots(x, y), rel=1e-4)


def test_fewer_samples_than_dimensions_are_exact():
    """In the subspace that they span covariances have full rank; turning it into more dimensions is no change."""
    x, y = rng.normal(size=(30, 10)), rng.normal(size=(25, 10)) * 2 + 1
    turn = np.linalg.qr(rng.normal(size=(500, 10)))[0].T
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(by_roots(x, y), rel=1e-9)


@pytest.mark.parametrize("shape", [(200, 16), (20, 500)])
def test_identical_sets_are_at_distance_0(shape):
    x = rng.normal(size=shape) * 10 + 3
    assert frechet_distance(x, x) <= 1e-8 * x.var(axis=0).sum()
    assert frechet_distance(x, x[::-1]) <= 1e-8 * x.var(axis=0).sum()


def test_known_gaussians_give_the_closed_form():
    """Of covariances that commute: |m1 - m2|^2 + sum (s1 - s2)^2 over deviations in the common directions."""
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a, b = np.array([1, 2, 3, 4, 5, 6.0]), np.array([2, 2, 1, 5, 0.5, 3.0])
    m = rng.normal(size=6)
    x = gaussian(50, np.zeros(6), turn @ np.diag(a**2) @ turn.T)
    y = gaussian(80, m, turn @ np.diag(b**2) @ turn.T)
    assert frechet_distance(x, y) == pytest.approx((m**2).sum() + ((a - b) ** 2).sum(), rel=1e-10)


class Table(torch.nn.Module):
    """Says of an image what the table has at the number in its first pixel."""

    num_features = 24

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, images):
        return self.features[images[:, 0, 0, 0].long()]


def test_frechet_distance_agrees_with_torchmetrics_on_the_same_features():
    torchmetrics = pytest.importorskip("torchmetrics.image.fid")
    x = torch.from_numpy(rng.normal(size=(200, 24)) @ rng.normal(size=(24, 24)))
    theirs = torchmetrics.FrechetInceptionDistance(Table(x), input_img_size=(3, 1, 1)).set_dtype(torch.float64)
    numbers = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1)
    theirs.update(numbers[:120], real=True)
    theirs.update(numbers[120:], real=False)
    assert frechet_distance(x[120:].numpy(), x[:120].numpy()) == pytest.approx(float(theirs.compute()), rel=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((4, 3)), np.ones((4, 2)), r"\[4, 3\] and \[4, 2\]"),
        (np.ones((4, 3, 1)), np.ones((4, 3)), r"not \[N,D\]"),
        (np.ones((1, 3)), np.ones((4, 3)), "1 features in a set, at least 2"),
        (np.ones((0, 3)), np.ones((4, 3)), "0 features in a set"),
        (np.full((4, 3), np.nan), np.ones((4, 3)), "not finite"),
    ],
)
def test_sets_without_a_distance_are_refused(x, y, message):
    with pytest.raises(MotionRAGError, match=message):
        frechet_distance(x, y)


# --- what all metrics hold to


def filled(metric, generated, targets, parts):
    """Measured in batches of these clips."""
    metric.reset()
    for part in parts:
        metric.update(generated[part], part_of(targets, part))
    return metric.compute()


def part_of(targets, part):
    return Targets(
        true=targets.true[part],
        first=targets.first[part],
        prompts=[targets.prompts[i] for i in part],
        scenes=targets.scenes.of(part),
    )


def test_names_and_directions(metrics):
    assert [metric.name for metric in metrics] == [*TINY, *PLAIN, *SIMULATED]
    better = {metric.name: metric.direction for metric in metrics}
    lower = {"tiny-fvd", "tiny-fid", "motion-kl", "flicker", "path-error"}
    assert better == {
        name: "lower" if name in lower else "none" if name == "dynamic-degree" else "higher" for name in better
    }
    assert [metric.name for metric in metrics if metric.of_sets] == ["tiny-fvd", "tiny-fid"]
    assert {metric.settings["flow"] for metric in metrics if "flow" in metric.settings} == {"DIS, medium preset"}


PAIRS = [[0, 1], [2, 3], [4, 5]]  # networks round otherwise in batches of another size


def test_batches_order_and_processes_leave_no_trace(metrics, worse, targets):
    for metric in metrics:
        whole = filled(metric, worse, targets, PAIRS)
        states = []
        for pair in PAIRS:
            filled(metric, worse, targets, [pair])
            states.append(pickle.loads(pickle.dumps(metric.state())))  # as another process sends it
        for order in (states, [states[2], states[0], states[1]]):
            metric.reset()
            for state in order:
                metric.merge(state)
            merged = metric.compute()
            assert merged.value == pytest.approx(whole.value, rel=1e-12), metric.name
            assert merged.n == whole.n <= 6
        assert whole.settings == metric.settings
        assert (whole.per_sample is None) == metric.of_sets
        if not metric.of_sets:
            assert whole.value == pytest.approx(np.nanmean(whole.per_sample))
            assert whole.per_sample.dtype == np.float64


def test_what_metrics_share_changes_no_number(metrics, worse, targets, monkeypatch):
    """Flow and tracks are taken once of clips that all metrics see together; rows are the same bit for bit."""
    alone = [metric.measure(worse, part_of(targets, list(range(6)))) for metric in metrics]
    flows, tracks = [], []
    for module, name, calls in ((flow_module, "_opencv", flows), (truth_module, "track", tracks)):
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, plain=plain, calls=calls: (calls.append(1), plain(*a))[1])
    shared = part_of(targets, list(range(6)))
    for _ in range(2):  # of two systems
        seen = Seen(worse)
        for metric, rows in zip(metrics, alone, strict=True):
            np.testing.assert_array_equal(metric.measure(seen, shared), rows)
    assert (len(flows), len(tracks)) == (3, 3)  # of each system's clips, and of the true ones


def test_batches_of_another_size_change_no_more_than_networks_round(worse, targets):
    for metric in load_metrics(["tiny-action", "tiny-fvd"]):
        pairs, odd = (filled(metric, worse, targets, parts).value for parts in (PAIRS, [[3], [1, 2, 5], [0, 4]]))
        assert odd == pytest.approx(pairs, rel=1e-5), metric.name


def test_figures_can_be_had_of_stored_rows(metrics, worse, targets):
    """As the runner does: rows as lists of numbers, of the generated and the true clips, and any subset of them."""
    for metric in metrics:
        whole = filled(metric, worse, targets, PAIRS)
        state = metric.state()
        true = state["reference"]
        own, true = (rows if rows is None else np.array(rows.tolist()) for rows in (state["rows"], true))
        assert metric.reduce(own, true) == pytest.approx(whole.value, rel=1e-12), metric.name
        part = filled(metric, worse, targets, PAIRS[::2])
        kept = [0, 1, 4, 5]
        result = metric.result(own[kept], None if true is None else true[kept])
        assert result.value == pytest.approx(part.value, rel=1e-12)
        assert result.n == part.n


def test_true_clips_are_perfect(metrics, targets):
    best = {
        "tiny-action": 100, "tiny-dino": 100, "tiny-fvd": 0, "tiny-fid": 0, "tiny-first-frame-dino": 100,
        "motion-kl": 0, "first-frame": 58.9, "first-frame-ssim": 1, "likeness": 1,
    }  # fmt: skip
    found = {metric.name: filled(metric, targets.true, targets, [list(range(6))]).value for metric in metrics}
    for name, value in best.items():
        assert found[name] == pytest.approx(value, abs=0.05 if name == "first-frame" else 1e-4), name
    assert found["path-error"] < 0.1
    assert found["flicker"] < 0.5
    assert found["tiny-text-video"] > 0.5


def test_stills_win_nothing_that_matters(still, targets):
    names = ["dynamic-degree", "flicker", "motion-kl", "tiny-action", "tiny-fvd", "path-error", "family-accuracy"]
    true, stood = (
        {metric.name: filled(metric, video, targets, [list(range(6))]).value for metric in load_metrics(names)}
        for video in (targets.true, still)
    )
    assert (stood["dynamic-degree"], stood["flicker"]) == (0, 0)
    assert true["dynamic-degree"] > 0.1
    assert stood["tiny-action"] < 60
    assert stood["motion-kl"] > 0.1
    assert stood["path-error"] > 0.2
    assert stood["family-accuracy"] < true["family-accuracy"]
    assert stood["tiny-fvd"] > 1 > true["tiny-fvd"]


def test_worse_clips_score_worse(worse, targets):
    found = {
        metric.name: filled(metric, worse, targets, [list(range(6))]).value
        for metric in load_metrics(["tiny-action", "tiny-fid", "first-frame", "first-frame-ssim"])
    }
    assert found["tiny-action"] < 90
    assert found["tiny-fid"] > 0.01
    assert 30 < found["first-frame"] < 50
    assert found["first-frame-ssim"] < 1


def test_the_judge_may_be_ones_own(true):
    own = FamilyAccuracy(FamilyClassifier(ClassifierConfig(families=list(set(true.clips.family)))).eval())
    assert own.settings["judge"] == "own"


def test_motions_without_a_path_do_not_count():
    true = held_out("known", 24, 61)
    targets = Targets(scenes=true.clips)
    metric = PathError()
    metric.update(true.clips.video, targets)
    result = metric.compute()
    moves = [scene.family.moves for scene in true.clips.scenes]
    assert np.isnan(result.per_sample).tolist() == [not one for one in moves]
    assert result.n == sum(moves) < 24
    standing = [i for i, one in enumerate(moves) if not one]
    with pytest.raises(MotionRAGError, match="none of"):
        metric.reduce(metric.measure(true.clips.video, targets)[standing])


# --- features against their definitions


def features(kind, network, reads=None, name="own"):
    return Features(name=name, kind=kind, settings={}, reads=reads, network=network, batch_size=2)


def test_action_and_frame_similarity_are_cosines():
    x, y = torch.randn(3, 5), torch.randn(3, 5)
    tables = iter([x[:2], x[2:], y[:2], y[2:]])
    video = torch.zeros(3, 2, 3, 16, 16, dtype=torch.uint8)
    rows = ActionScore(features("action", lambda _: next(tables))).measure(video, Targets(true=video))
    expected = [100 * (a @ b) / (a.norm() * b.norm()) for a, b in zip(x.double(), y.double(), strict=True)]
    np.testing.assert_allclose(rows[:, 0], torch.stack(expected), rtol=1e-12)
    x, y = torch.randn(1, 4, 5), torch.randn(1, 4, 5)
    tables = iter([x, y])
    rows = FrameSimilarity(features("dino", lambda _: next(tables))).measure(video[:1], Targets(true=video[:1]))
    each = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(x[0].double(), y[0].double(), strict=True)]
    assert rows[0, 0] == pytest.approx(100 * sum(each) / 4, rel=1e-12)


def test_fid_takes_as_many_frames_of_each_clip():
    fid = FID(features("fid", lambda video: video.float().mean(dim=(3, 4))), frames=4)
    videos = torch.randint(0, 255, (6, 9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = fid.measure(videos, Targets(true=videos))
    assert rows.shape == (6, 12)
    np.testing.assert_allclose(rows[0, 3:6], videos[0, 3].float().mean(dim=(1, 2)), rtol=1e-6)
    each = videos[:, [0, 3, 5, 8]].float().mean(dim=(3, 4)).flatten(0, 1).numpy()
    other = rows[::-1] * 2
    assert fid.reduce(rows, other) == pytest.approx(by_roots(each, each * 2), rel=1e-5)


@pytest.mark.parametrize(
    ("cls", "kind"),
    [(ActionScore, "dino"), (FVD, "dino"), (FID, "fvd"), (FrameSimilarity, "action"), (FirstFrameSimilarity, "fvd")],
)
def test_features_of_the_wrong_kind_are_refused(cls, kind):
    with pytest.raises(MotionRAGError, match="takes features of"):
        cls(features(kind, None))
    with pytest.raises(MotionRAGError, match="text-video"):
        TextVideoAlignment(features(kind, None))


def test_alignment_reads_prompts_or_families(targets):
    words = []

    def network(video, said):
        words.extend(said)
        return torch.zeros(len(video))

    TextVideoAlignment(features("text-video", network, "prompts")).measure(targets.true, targets)
    TextVideoAlignment(features("text-video", network, "families")).measure(targets.true, targets)
    assert words == [*targets.prompts, *targets.scenes.family]


# --- flow, flicker, pictures


def test_a_texture_that_moves_2_pixels_a_frame_flows_so():
    found = flow(texture(speed=2))
    assert found.shape == (1, 3, 2, 64, 64)
    assert found[:, :, 0].mean() == pytest.approx(2, abs=0.05)
    assert found[:, :, 1].abs().mean() < 0.1
    assert flow(texture(speed=0)).abs().max() == 0


def test_dynamic_degree_is_how_fast_the_fastest_pixels_are(targets, monkeypatch):
    degree, two = DynamicDegree(), 100 * 2 / math.hypot(64, 64)
    speeds = torch.arange(3 * 400).reshape(1, 3, 20, 20).float()  # the fastest 20 of 400 pixels a frame
    with monkeypatch.context() as patch:
        patch.setattr(motion_module, "speed", lambda clips: speeds)
        expected = np.mean([400 * t + np.arange(380, 400) for t in range(3)]) / math.hypot(20, 20)
        assert degree.measure(torch.zeros(1, 4, 3, 20, 20, dtype=torch.uint8))[0, 0] == pytest.approx(100 * expected)
    moving, still = texture(speed=2), texture(speed=0)
    assert degree.measure(moving)[0, 0] == pytest.approx(two, rel=0.05)
    still[..., 16:48, 16:48] = moving[..., 16:48, 16:48]  # a quarter of the frame
    assert degree.measure(still)[0, 0] == pytest.approx(two, rel=0.1)
    faint = torch.randn(1, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    textured = (targets.true + faint).round().clamp(0, 255).to(torch.uint8)
    plain, changed = (degree.measure(clips)[:, 0].mean() for clips in (targets.true, textured))
    assert changed == pytest.approx(plain, rel=0.03)


def test_magnitudes_are_counted_in_pixels_of_a_frame_of_256():
    hist = magnitude_histograms(Seen(texture(speed=2)))[0]
    torch.testing.assert_close(hist.sum(dim=1), torch.ones(3, dtype=torch.float64))
    assert hist.argmax(dim=1).tolist() == pytest.approx([(3 + 7) / 12 * 256] * 3, abs=2)  # 2 px of 64 are 8 of 256
    large = (
        F.interpolate(texture(frames=2)[0].float(), scale_factor=8, mode="bilinear").round().to(torch.uint8)[None]
    )
    assert magnitude_histograms(Seen(large))[0].argmax(dim=1)[0] == pytest.approx((3 + 7) / 12 * 256, abs=4)
    still = magnitude_histograms(Seen(texture(speed=0)))[0]
    assert (still.argmax(dim=1) == 0).all()


def test_motion_kl_is_the_divergence_of_the_true_histograms(monkeypatch):
    true, made = texture(speed=3), texture(speed=1)
    p, q = (magnitude_histograms(Seen(video))[0] for video in (true, made))
    expected = scipy.special.rel_entr(p.numpy(), q.numpy()).sum(axis=1).mean()
    assert MotionKL().measure(made, Targets(true=true))[0, 0] == pytest.approx(expected, rel=1e-12)
    assert expected > 1


def test_flicker_is_the_change_of_what_stands_still():
    generator = torch.Generator().manual_seed(0)
    still = texture(frames=8, speed=0)
    blink = (still.int() + torch.tensor([0, 6] * 4)[None, :, None, None, None]).clamp(0, 255).to(torch.uint8)
    metric = TemporalFlicker()
    assert metric.measure(still)[0, 0] == 0
    assert metric.measure(blink)[0, 0] == pytest.approx(6, abs=0.3)
    assert np.isnan(metric.measure(texture(speed=3))[0, 0])
    noise = torch.randint(-2, 3, still.shape, generator=generator)
    assert 1 < metric.measure((still.int() + noise).clamp(0, 255).to(torch.uint8))[0, 0] < 2.2


def test_clips_without_flow_are_refused():
    with pytest.raises(MotionRAGError, match="one frame does not move"):
        flow(texture(frames=1))
    with pytest.raises(MotionRAGError, match="frames are 8x8"):
        flow(texture(size=8))


def test_flow_without_opencv_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MotionRAGError, match=r"pip install 'motionrag\[eval\]'"):
        flow(texture())


def test_first_frame_fidelity():
    image = texture(frames=1)[:, 0]
    off = (image.int() + 10).clamp(0, 255).to(torch.uint8)
    clip = off[:, None].expand(-1, 3, -1, -1, -1)
    targets = Targets(first=image)
    mse = (off.double() - image.double()).square().mean().item()
    assert FirstFramePSNR().measure(clip, targets)[0, 0] == pytest.approx(10 * math.log10(255**2 / mse), rel=1e-9)
    assert FirstFrameSSIM().measure(clip, targets)[0, 0] == pytest.approx(float(ssim(off.double(), image.double())))
    assert FirstFrameSimilarity(load_features("dino", "tiny")).measure(clip, targets)[0, 0] < 100
    with pytest.raises(MotionRAGError, match="as they were resized for generation"):
        FirstFramePSNR().measure(clip[..., :32, :32], targets)


def test_ssim_agrees_with_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics.functional.image")
    x, y = texture(frames=2, speed=4)[0].double()[:, None].unbind()
    _, full = torchmetrics.structural_similarity_index_measure(x, y, data_range=255.0, return_full_image=True)
    within = full[..., 5:-5, 5:-5].mean()  # windows within the image, as Wang et al. have it
    assert float(ssim(x, y)) == pytest.approx(float(within), rel=1e-6)


# --- errors


def test_what_cannot_be_measured_is_refused(targets, true):
    metric = FrameSimilarity(load_features("dino", "tiny"))
    with pytest.raises(MotionRAGError, match=r"tiny-dino needs true: give Targets\(true"):
        metric.measure(targets.true)
    with pytest.raises(MotionRAGError, match="6 generated clips, but 5 of true"):
        metric.measure(targets.true, Targets(true=targets.true[:5]))
    with pytest.raises(MotionRAGError, match="generated clips have 8 frames, the true ones 16"):
        metric.measure(targets.true[:, :8], targets)
    with pytest.raises(MotionRAGError, match=r"the generated clips are torch\.float32"):
        metric.measure(targets.true.float(), targets)
    with pytest.raises(MotionRAGError, match="wanted are uint8"):
        metric.measure(targets.true[:0], targets)
    with pytest.raises(MotionRAGError, match="the true clips are a list"):
        metric.measure(targets.true, Targets(true=[0] * 6))
    with pytest.raises(MotionRAGError, match="no clips were measured"):
        metric.compute()
    with pytest.raises(MotionRAGError, match="rendered as"):
        PathError().measure(targets.true[..., ::2, ::2], targets)
    with pytest.raises(MotionRAGError, match="cannot merge with motion-kl"):
        metric.merge(MotionKL().state())
    with pytest.raises(MotionRAGError, match=r"scores are \[N,1\]"):
        metric.reduce(np.ones((3, 2)))


def test_values_that_are_not_finite_are_refused(targets):
    metric = ActionScore(features("action", lambda video: torch.full((len(video), 4), math.nan)))
    with pytest.raises(MotionRAGError, match="6 of 6 clips have values that are not finite"):
        metric.measure(targets.true, targets)
    fvd = FVD(load_features("fvd", "tiny"))
    rows = fvd.measure(targets.true, targets)
    with pytest.raises(MotionRAGError, match="`reference` makes them"):
        fvd.reduce(rows)
    with pytest.raises(MotionRAGError, match="at least 2"):
        fvd.reduce(rows[:1], rows)


def test_metrics_are_found_by_name_and_networks_loaded_once(tmp_path):
    one, two = load_metrics(["tiny-dino", "tiny-first-frame-dino"])
    assert one._features is two._features
    assert load_metrics(["dino"], {"dino": "tiny"})[0].name == "tiny-dino"
    with pytest.raises(MotionRAGError, match="no metric named 'motion-k'; did you mean 'motion-kl'"):
        load_metrics(["motion-k"])
    with pytest.raises(MotionRAGError, match="sources: no features of kind 'i3d'"):
        load_metrics([], {"i3d": "x"})
    with pytest.raises(MotionRAGError, match="no bundled network stands in for clip"):
        load_metrics(["tiny-clip"])


def test_what_is_no_batch_of_clips_is_refused_however_it_comes():
    for wrong in (torch.zeros(1, 2, 3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(MotionRAGError, match=r"wanted are uint8 \[B,T,3,H,W\]"):
            Seen(wrong)
