"""`motionrag convert`: every key accounted for, later stages first, and bad files refused in one line."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from motionrag import MotionBundle, MotionRAGError
from motionrag.cli import main
from motionrag.convert.published import convert
from motionrag.convert.reader import read_checkpoint

FILES = Path(__file__).parents[1] / "data" / "golden" / "checkpoints"
BASES = ["cogvideox", "svd", "dynamicrafter"]
PROJ, TRANSFORMER, NO_START = (
    FILES / f"{name}.ckpt" for name in ("motion_proj", "motion_transformer", "motion_transformer_without_sos")
)


def adapter_file(base):
    return FILES / f"{base}_motion_adapter.ckpt"


def published(path):
    content = torch.load(path, weights_only=True)
    return content.get("state_dict", content)


@pytest.mark.parametrize("base", BASES)
def test_every_key_is_accounted_for(base):
    paths = [PROJ, TRANSFORMER, adapter_file(base)]
    bundle, reports = convert(paths, head_dim=8)
    assert bundle.config.adapter.base == base
    accounted = {(report.file, report.key) for report in reports}
    assert accounted == {(path.name, key) for path in paths for key in published(path)}
    assert not [report for report in reports if report.action == "dropped"]
    mapped = {report.name: report for report in reports if report.action == "mapped"}
    state = bundle.state_dict()
    assert set(mapped) == set(state)
    for name, report in mapped.items():
        assert torch.equal(state[name], published(FILES / report.file)[report.key])


def without_queries(base, tmp_path):
    content = torch.load(adapter_file(base), weights_only=True)
    content["state_dict"] = {key: value for key, value in content["state_dict"].items() if ".to_q_" not in key}
    torch.save(content, tmp_path / "Motion-Adapter.ckpt")
    return tmp_path / "Motion-Adapter.ckpt"


def test_dynamicrafters_released_adapters_get_random_queries(tmp_path, capsys):
    """Theirs hold `to_k_a` and `to_v_a` alone."""
    paths = [PROJ, TRANSFORMER, without_queries("dynamicrafter", tmp_path)]
    bundle, reports = convert(paths, head_dim=8)
    full, _ = convert([PROJ, TRANSFORMER, adapter_file("dynamicrafter")], head_dim=8)
    assert bundle.config == full.config
    state, expected = bundle.state_dict(), full.state_dict()
    queries = {name for name in state if name.endswith(".to_q.weight") and name.startswith("adapter.")}
    assert all(torch.equal(state[name], expected[name]) for name in set(state) - queries)
    assert {report.name for report in reports if report.action == "derived"} == queries
    for name in queries:
        assert 0.4 < state[name].abs().max() * len(state[name]) ** 0.5 <= 1
    again, other = (convert(paths, head_dim=8, seed=seed)[0].state_dict() for seed in (0, 1))
    assert all(
        torch.equal(state[name], again[name]) and not torch.equal(state[name], other[name]) for name in queries
    )
    assert main(["convert", *map(str, paths), "--head-dim", "8", "--out", str(tmp_path / "bundle")]) == 0
    assert "which were never trained: they are random, drawn with seed 0" in capsys.readouterr().err


@pytest.mark.parametrize("base", ["cogvideox", "svd"])
def test_adapters_of_other_bases_need_their_queries(base, tmp_path):
    with pytest.raises(MotionRAGError, match="no query projections of the adapter: add a complete"):
        convert([PROJ, TRANSFORMER, without_queries(base, tmp_path)], head_dim=8)


@pytest.mark.parametrize(
    ("base", "site", "key"),
    [
        ("cogvideox", "transformer_blocks.1.attn1", "transformer.{}.processor.to_k_ip.0.weight"),
        ("svd", "mid_block.attentions.0.transformer_blocks.0.attn2", "unet.{}.processor.to_k_ip.0.weight"),
        ("dynamicrafter", "middle_block.1.transformer_blocks.0.attn2", "model.diffusion_model.{}.to_k_a.weight"),
    ],
)
def test_sites_keep_their_weights(base, site, key):
    bundle, _ = convert([PROJ, TRANSFORMER, adapter_file(base)], head_dim=8)
    weights = published(adapter_file(base))
    assert torch.equal(bundle.adapter.site(site).to_k.weight, weights[key.format(site)])
    assert bundle.config.adapter.sites[site] == len(weights[key.format(site)])


def test_a_joint_file_overrides_earlier_stages_in_any_order(tmp_path):
    content = torch.load(adapter_file("svd"), weights_only=True)
    key = "condition_transformer.vision_proj.latents"
    content["state_dict"][key] = content["state_dict"][key] + 1
    joint = tmp_path / "Motion-Adapter.ckpt"
    torch.save(content, joint)
    for paths in ([PROJ, TRANSFORMER, joint], [joint, TRANSFORMER, PROJ]):
        bundle, reports = convert(paths, head_dim=8)
        assert torch.equal(bundle.motion_resampler.latents, content["state_dict"][key])
        earlier = next(report for report in reports if report.key == "latents")
        assert (earlier.action, earlier.note) == ("overridden", "a later stage's value is in Motion-Adapter.ckpt")


def test_a_missing_start_token_is_reported_and_drawn_from_the_seed():
    paths = [PROJ, NO_START, adapter_file("svd")]
    (bundle, reports), (again, _), (other, _) = (convert(paths, head_dim=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(bundle.context.start, again.context.start)
    assert not torch.equal(bundle.context.start, other.context.start)
    assert 0.5 < bundle.context.start.std() * bundle.config.context.width**0.5 < 1.5
    derived = [report for report in reports if report.action == "derived"]
    assert [(report.key, report.name) for report in derived] == [("sos_token", "context.start")]
    assert "seed 0" in derived[0].note


def test_an_adapter_file_of_stage_one_brings_its_resampler(tmp_path):
    """Before stage 3 the adapter's file holds the motion resampler under another name."""
    content = published(adapter_file("svd"))
    stage_one = {key: value for key, value in content.items() if key.startswith("unet.")}
    stage_one |= {f"action_proj_model.{key}": value for key, value in published(PROJ).items()}
    torch.save({"state_dict": stage_one}, tmp_path / "stage1.ckpt")
    bundle, _ = convert([TRANSFORMER, tmp_path / "stage1.ckpt"], head_dim=8)
    assert torch.equal(bundle.motion_resampler.latents, published(PROJ)["latents"])


def test_what_does_not_belong_is_dropped_with_its_reason(tmp_path):
    content = torch.load(adapter_file("svd"), weights_only=True)
    extra = {
        "unet.conv_in.weight": "frozen base",
        "condition_transformer.vision_model.model.embed.weight": "frozen encoder",
        "condition_transformer.vision_pe.pe": "position table",
        "something.else": "not of the method",
    }
    content["state_dict"] |= {key: torch.zeros(2) for key in extra}
    torch.save(content, tmp_path / "a.ckpt")
    _, reports = convert([PROJ, TRANSFORMER, tmp_path / "a.ckpt"], head_dim=8)
    dropped = {report.key: report.note for report in reports if report.action == "dropped"}
    assert dropped.keys() == extra.keys()
    assert all(extra[key] in note for key, note in dropped.items())


@pytest.mark.parametrize(
    "key",
    [
        "transformer.norm.weight",
        "condition_transformer.vision_proj.extra.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_q_ip.1.weight",
    ],
)
def test_an_unknown_weight_of_the_method_is_refused(key, tmp_path):
    """To leave it out would make another model of it."""
    content = torch.load(adapter_file("svd"), weights_only=True)
    content["state_dict"][key] = torch.zeros(2)
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(MotionRAGError, match=f"unknown weight '{key}'"):
        convert([PROJ, TRANSFORMER, tmp_path / "a.ckpt"], head_dim=8)


def test_a_joint_file_overrides_an_adapter_of_stage_one(tmp_path):
    joint = published(adapter_file("svd"))
    first = {key: value + 1 for key, value in joint.items() if key.startswith("unet.")}
    torch.save({"state_dict": first}, tmp_path / "stage1.ckpt")
    for paths in ([adapter_file("svd"), tmp_path / "stage1.ckpt"], [tmp_path / "stage1.ckpt", adapter_file("svd")]):
        bundle, reports = convert([*paths, TRANSFORMER], head_dim=8)
        site = "mid_block.attentions.0.transformer_blocks.0.attn2"
        expected = joint[f"unet.{site}.processor.to_q_ip.0.weight"]
        assert torch.equal(bundle.adapter.site(site).to_q.weight, expected)
        assert {r.action for r in reports if r.file == "stage1.ckpt"} == {"overridden"}


def test_two_files_of_one_stage_are_refused(tmp_path):
    shutil.copy(PROJ, tmp_path / "other.ckpt")
    with pytest.raises(MotionRAGError, match="hold the same part"):
        convert([PROJ, tmp_path / "other.ckpt", TRANSFORMER, adapter_file("svd")], head_dim=8)


def without(*prefixes):
    def make(folder):
        content = published(adapter_file("svd"))
        torch.save({k: v for k, v in content.items() if not k.startswith(prefixes)}, folder / "bad.ckpt")

    return make


class Code:
    def __reduce__(self):
        return print, ("this code must never run",)


def truncated(folder):
    (folder / "bad.ckpt").write_bytes(PROJ.read_bytes()[:-5000])


def truncated_legacy(folder):
    torch.save(published(PROJ), folder / "bad.ckpt", _use_new_zipfile_serialization=False)
    (folder / "bad.ckpt").write_bytes((folder / "bad.ckpt").read_bytes()[:-5000])


def not_finite(folder):
    torch.save(published(PROJ) | {"proj_in.bias": torch.tensor([float("nan")])}, folder / "bad.ckpt")


HEX = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such file"),
        (lambda folder: (folder / "bad.ckpt").write_bytes(b""), "not a PyTorch checkpoint"),
        (lambda folder: (folder / "bad.ckpt").write_bytes(HEX), "not a PyTorch checkpoint"),
        (lambda folder: (folder / "bad.ckpt").write_text("<html>"), "not a PyTorch checkpoint"),
        (truncated, "cut short"),
        (truncated_legacy, "refused, it is damaged"),
        (
            lambda folder: torch.save({"a": Code()}, folder / "bad.ckpt"),
            "refused, it carries Python objects or code",
        ),
        (
            lambda folder: (folder / "bad.ckpt").write_bytes(pickle.dumps(Code(), protocol=2)),
            "refused, it carries Python objects or code",
        ),
        (lambda folder: (folder / "bad.ckpt").write_bytes(pickle.dumps(Code())), "a pickle of something else"),
        (lambda folder: torch.save([1, 2], folder / "bad.ckpt"), "holds no state dict"),
        (lambda folder: torch.save({"epoch": 3}, folder / "bad.ckpt"), "its entry 'epoch' is a int, not a tensor"),
        (not_finite, "its tensor 'proj_in.bias' is not finite"),
        (lambda folder: torch.save({"w": torch.zeros(1)}, folder / "bad.ckpt"), "none of its 1 keys belongs"),
        (lambda folder: shutil.copy(adapter_file("cogvideox"), folder / "bad.ckpt"), "adapters of several bases"),
        (without("unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_v"), None),
    ],
)
def test_bad_files_are_refused_in_one_line(make, message, tmp_path, capsys):
    make(tmp_path)
    paths = [PROJ, TRANSFORMER, tmp_path / "bad.ckpt"]
    if message is None:  # an adapter with a projection missing
        message = "to_v.weight is missing"
    else:
        paths.append(adapter_file("svd"))
    code = main(["convert", *map(str, paths), "--out", str(tmp_path / "out"), "--head-dim", "8"])
    printed = capsys.readouterr()
    assert code == 1
    assert message in printed.err
    assert "bad.ckpt" in printed.err
    assert printed.err.count("\n") == 1
    assert "never run" not in printed.out + printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        ([PROJ, TRANSFORMER], {}, "no adapter among the files"),
        ([PROJ, TRANSFORMER, adapter_file("svd")], {"base": "cogvideox"}, "an adapter for svd, not for cogvideox"),
        ([PROJ, TRANSFORMER, adapter_file("svd")], {"head_dim": 64}, "give the right --head-dim"),
        ([PROJ, TRANSFORMER, adapter_file("svd")], {"seed": 2**64}, "must be at least 0 and below"),
    ],
)
def test_wrong_combinations_are_refused(paths, options, message):
    with pytest.raises(MotionRAGError, match=message):
        convert(paths, **({"head_dim": 8} | options))


@pytest.mark.parametrize(
    ("prefixes", "files", "message"),
    [
        (
            ("condition_transformer.vision_proj",),
            [TRANSFORMER],
            r"no motion_resampler\.proj_in\.weight: add a complete motion_proj\.ckpt",
        ),
        (
            ("condition_transformer.transformer",),
            [PROJ],
            r"no context\.encoder.*: add a complete motion_transformer\.ckpt",
        ),
        (
            ("condition_transformer.condition_proj",),
            [PROJ],
            "no appearance_resampler.*: add a complete motion_transf",
        ),
    ],
)
def test_missing_parts_are_named(prefixes, files, message, tmp_path):
    without(*prefixes)(tmp_path)
    if files == [TRANSFORMER]:
        torch.save({k: v for k, v in published(TRANSFORMER).items() if "vision_proj" not in k}, tmp_path / "t.ckpt")
        files = [tmp_path / "t.ckpt"]
    with pytest.raises(MotionRAGError, match=message):
        convert([*files, tmp_path / "bad.ckpt"], head_dim=8)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_truncation_gets_through(zipped, tmp_path):
    """Cut anywhere, in either of torch's formats, a file is refused, never read in part."""
    torch.save({"latents": torch.ones(3, 5)}, tmp_path / "whole.ckpt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole.ckpt").read_bytes()
    assert read_checkpoint(tmp_path / "whole.ckpt")["latents"].sum() == 15
    for length in range(len(whole)):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(MotionRAGError):
            read_checkpoint(tmp_path / "cut.ckpt")


def test_reading_keeps_bare_and_nested_state_dicts():
    assert "latents" in read_checkpoint(PROJ)
    assert "condition_proj.latents" in read_checkpoint(TRANSFORMER)


def test_the_command(tmp_path):
    """As a user runs it: a table, a bundle that loads, the fingerprint printed."""
    paths = map(str, [PROJ, NO_START, adapter_file("cogvideox")])
    command = [sys.executable, "-m", "motionrag", "convert", *paths, "--head-dim", "8", "--out", str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    bundle = MotionBundle.from_pretrained(tmp_path / "b")
    assert bundle.fingerprint() in done.stdout
    assert "88 mapped, 1 derived" in done.stdout.replace("82 overridden, ", "")
    assert "to_q_ip" in done.stdout
    lines = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {json.loads(line)["action"] for line in lines} == {"mapped", "overridden", "derived"}


def test_the_table_is_whole_at_any_width(tmp_path, capsys, monkeypatch):
    paths = [*map(str, [PROJ, TRANSFORMER, adapter_file("svd")])]
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["convert", *paths, "--head-dim", "8", "--out", str(tmp_path / "b")]) == 0
    printed = capsys.readouterr()
    assert "…" not in printed.out
    assert "warning: the adapter takes tokens 16 wide, the context transformer makes 32" in printed.err


def test_a_file_for_a_folder_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["convert", "nothing.ckpt", "--out", str(tmp_path / "file")]) == 1
    assert "--out wants a folder" in capsys.readouterr().err


def test_the_command_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "turn published checkpoints into a bundle" in capsys.readouterr().out


def test_a_base_models_own_checkpoint(tmp_path, capsys, monkeypatch):
    """What the converter does is tested beside it; here that the verb finds it, and says what is wrong."""
    from motionrag.bases.dynamicrafter import convert as module
    from motionrag.bases.dynamicrafter.keys import KeyAccount

    calls = []
    account = [KeyAccount("a", "unet", "b"), KeyAccount("c", None, "not needed")]
    monkeypatch.setattr(module, "convert", lambda *given: calls.append(given) or account)
    file, out = tmp_path / "model.ckpt", tmp_path / "out"
    assert main(["convert", str(file), "--pipeline", "--base", "dynamicrafter", "--out", str(out)]) == 0
    assert calls == [(file, out)]
    assert "1 keys unet, 1 keys dropped" in capsys.readouterr().out
    for options, message in ((["--base", "svd"], "svd needs no conversion"), ([], "with --base")):
        assert main(["convert", str(file), "--pipeline", *options, "--out", str(out)]) == 1
        assert message in capsys.readouterr().err
