"""`antidote scan`: scores of pairs from every kind of dataset, keys to leave out, and one line for bad input."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from antidote.base.errors import UserError
from antidote.base.registry import DETECTORS, method
from antidote.clip.folder import save_model
from antidote.clip.visual_prompts import VisualPrompts
from antidote.command import resume, scan
from antidote.data import picture_file
from antidote.data.pairs import Pairs
from antidote.data.picture_file import PictureFile
from antidote.detectors import cognitive_distillation, zero_shot
from antidote.detectors.base import Scores
from antidote.detectors.features import FeatureFile, picture_features
from antidote.training.session import Work


@pytest.fixture
def model(tmp_path, make_clip):
    save_model(tmp_path / "model", make_clip("vit"), {"kind": "suspicious", "statement": "test"})
    return tmp_path / "model"


@pytest.fixture
def table(tmp_path):
    """40 pictures in a table; their names are their rows."""
    noise = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{number:02d}.png")
    file = tmp_path / "pairs.csv"
    rows = {"file": [f"{n:02d}.png" for n in range(40)], "caption": [f"picture {n}" for n in range(40)]}
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def scanned(*words):
    scan.run(scan.arguments().parse_args([str(word) for word in words]))


def test_a_table_is_scored(tmp_path, model, table):
    scanned(
        table, "--model", model, "--output", tmp_path / "out", "--share", 0.1, "--shown", 3, "--detector", "k_distance"
    )
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert len(scores) == 40 and scores["score"].is_monotonic_decreasing
    assert (tmp_path / "out" / "keys.txt").read_text().split() == scores["key"].head(4).tolist()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count(" · in keys.txt") == min(3, len((tmp_path / "out" / "keys.txt").read_text().splitlines()))
    assert page.count("<img") == 3 and scores["caption"][0] in page
    assert json.loads((tmp_path / "out" / "scan.json").read_text())["pairs"] == 40
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "keys.txt",
        "report.html",
        "scan.json",
        "scores.csv",
    ]


def test_the_adapter_of_a_model_is_in_its_scores(table, make_clip):
    clip = make_clip("vit")
    drawn = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(2))
    prompted = VisualPrompts(clip.network, clip.config, {"prompts": drawn}, {"depth": 1})
    plain, found = (scan.scan(table, model, "k_distance").values for model in (clip, prompted))
    assert not np.allclose(plain, found)


def test_a_threshold_decides_which_keys_are_left_out(tmp_path, model, table):
    scanned(table, "--model", model, "--output", tmp_path / "out", "--detector", "clip_score", "--threshold", 3)
    assert (tmp_path / "out" / "keys.txt").read_text() == ""


def test_no_threshold_that_is_no_number(tmp_path, model, table):
    for word in ("nan", "inf"):
        with pytest.raises(UserError, match=f"^--threshold: {word} should be a finite number$"):
            scanned(table, "--model", model, "--output", tmp_path / "out", "--threshold", word)


def test_a_share_that_rounds_to_none_is_told(tmp_path, model, table, caplog):
    with caplog.at_level("INFO"):
        scanned(table, "--model", model, "--output", tmp_path / "out", "--detector", "clip_score")
    told = "a share of 1 % of 40 pairs rounds to none; name a larger --share"
    assert told in caplog.text and told in (tmp_path / "out" / "report.html").read_text()
    found = scan.scan(table, model, "clip_score", threshold=9)
    assert found.reason == ": no score reaches the threshold 9"
    assert scan.scan(table, model, "clip_score", share=0.1).reason == ""


def test_pairs_without_a_score_are_recorded(tmp_path, model, table):
    (tmp_path / "07.png").write_text("no picture")
    scanned(table, "--model", model, "--output", tmp_path / "out", "--detector", "clip_score")
    facts = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert facts["pairs"] == 39
    assert facts["skipped"] == {
        "count": 1,
        "reasons": {"not a picture": 1},
        "keys": ["pairs-0000007"],
        "damaged": [],
    }
    assert "1 x not a picture; pairs-0000007" in (tmp_path / "out" / "report.html").read_text()


def test_a_dataset_whose_name_is_no_utf_8_is_scored(tmp_path, table, make_clip):
    """The page shows the name's bytes; scan.json holds the name itself, which tells a later scan from this one."""
    named = table.rename(tmp_path / os.fsdecode(b"caf\xe9.csv"))
    scan.scan(named, make_clip("vit"), "clip_score", output=tmp_path / "out")
    assert "caf\\xe9.csv" in (tmp_path / "out/report.html").read_text()
    assert json.loads((tmp_path / "out/scan.json").read_text())["dataset"] == str(named)


@pytest.mark.parametrize("what", ["model", "weights"])
def test_a_model_whose_name_is_no_utf_8_is_refused(what, model, table, tmp_path):
    """The library that reads the weights cannot open it, and would call the file damaged."""
    named = tmp_path / os.fsdecode(b"caf\xe9")
    (model if what == "model" else model / "open_clip_model.safetensors").rename(named)
    words = ["--arch", "tiny-vit"] if what == "weights" else []
    with pytest.raises(UserError, match=r"^model: .*caf\\xe9: is not valid UTF-8; give it another name$"):
        scanned(table, "--model", named, *words, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tower", ["visual.conv1.weight", "token_embedding.weight"])
def test_features_that_are_no_numbers_are_told(tower, table, make_clip):
    clip = make_clip("vit")
    clip.network.get_parameter(tower).data.fill_(float("nan"))
    with pytest.raises(UserError, match="the model's features are not finite: its weights are damaged"):
        scan.scan(table, clip, "clip_score")


def test_scores_that_are_no_numbers_are_told(tmp_path, table, make_clip, monkeypatch):
    kind = method("detector", "clip_score")
    scores = lambda self, clip, data, work: Scores(data.training_set.keys, np.array([np.nan, np.inf] + 38 * [0.0]))
    monkeypatch.setattr(kind, "score", scores)
    with pytest.raises(UserError, match=r"^clip_score: 2 of 40 scores of a model in memory are not finite"):
        scan.scan(table, make_clip("vit"), "clip_score", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scan_of_other_pairs_is_not_replaced(tmp_path, table, make_clip):
    clip, out = make_clip("vit"), tmp_path / "out"
    scan.scan(table, clip, "clip_score", output=out)
    scan.scan(table, clip, "clip_score", share=0.2, output=out)
    other = table.rename(tmp_path / "other.csv")
    with pytest.raises(UserError, match=r"--output: .*out: holds results of dataset .*pairs\.csv, which would be lost"):
        scan.scan(other, clip, "clip_score", output=out)
    with pytest.raises(UserError, match=r"holds results of detector clip_score"):
        scan.scan(other.rename(table), clip, "k_distance", output=out)


def test_equal_names_in_other_folders_are_other_pairs(tmp_path, table, make_clip, monkeypatch):
    clip, out = make_clip("vit"), tmp_path / "out"
    shutil.copytree(table.parent, tmp_path / "other", ignore=lambda *_: ["out", "other"])
    for folder in (table.parent, table.parent):  # the same pairs again
        monkeypatch.chdir(folder)
        scan.scan(table.name, clip, "clip_score", output=out)
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(UserError, match=rf"out: holds results of the files {table}, which would be lost"):
        scan.scan(table.name, clip, "clip_score", output=out)


class Killed(BaseException):
    """Ends a scan at once, as a signal does."""


def test_features_are_not_hashed_for_a_detector_without_checkpoints(tmp_path, table, make_clip, monkeypatch):
    hashed, digest = [], resume.data_digest
    monkeypatch.setattr(resume, "data_digest", lambda data: hashed.append(1) or digest(data))
    scan.scan(table, make_clip("vit"), "dao", output=tmp_path / "features")
    assert not hashed
    scan.scan(table, make_clip("vit"), "cognitive_distillation", settings={"steps": 1}, output=tmp_path / "pictures")
    assert hashed


def test_a_killed_scan_goes_on_after_the_pictures_that_were_looked_at(tmp_path, table, make_clip, monkeypatch):
    kind = method("detector", "cognitive_distillation")
    clip, settings, sizes, seen = make_clip("vit"), {"steps": 2}, kind._sizes, []

    def masked(self, clip, images, stream):
        if len(seen) == 1 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise Killed
        seen.append(len(images))
        return sizes(self, clip, images, stream)

    run = lambda out: scan.scan(table, clip, "cognitive_distillation", settings=settings, output=tmp_path / out).values
    monkeypatch.setattr(resume, "Work", partial(Work, every=0))
    for module in (zero_shot, cognitive_distillation):
        monkeypatch.setattr(module, "BATCH", 16)
    whole = run("undisturbed")
    monkeypatch.setattr(kind, "_sizes", masked)
    with pytest.raises(Killed):
        run("out")
    assert run("out").tolist() == whole.tolist() and seen == [16, 16, 8]
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"], "no work folder is left"
    (tmp_path / "killed").unlink()
    seen.clear()
    with pytest.raises(Killed):
        run("again")
    Image.new("RGB", (40, 40)).save(tmp_path / "39.png")
    run("again")
    assert seen == [16, 16, 16, 8], "other pictures under the same names"


def of_features():
    return [name for name in DETECTORS if method("detector", name).from_features]


@pytest.mark.parametrize("name", of_features())
def test_scores_are_those_of_the_detector_on_pictures(name, tmp_path, make_clip, make_pairs):
    from antidote.data.access import DefenseData

    kind, clip, pairs = method("detector", name), make_clip("vit"), make_pairs(count=60)
    score = lambda given: (
        kind(kind.Settings(), 3).score(clip, DefenseData(training_set=given), Work(tmp_path, "x")).values
    )
    encoded = scan.encode(clip, [pairs.take(range(25)), pairs.take(range(25, 60))], tmp_path, "given")
    np.testing.assert_allclose(score(encoded), score(pairs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ubt", "abl"])
def test_pictures_that_are_looked_at_again_are_read_from_a_file(name, tmp_path, make_clip, make_pairs):
    from antidote.data.access import DefenseData

    kind, clip, pairs = method("detector", name), make_clip("vit"), make_pairs(count=60)
    recipe = {"epochs": 1, "batch_size": 8, "warmup": 0}
    values = (
        {"training": recipe} if name == "abl" else {"suspicious_share": 0.2, "forget_share": 0.1, "overfit": recipe}
    )
    settings = kind.Settings.read({"method": name, **values}, name)
    score = lambda given, place: (
        kind(settings, 3).score(clip, DefenseData(training_set=given), Work(tmp_path / place, "x")).values
    )
    kept = scan.keep(clip, [pairs.take(range(25)), pairs.take(range(25, 60))], tmp_path, "given")
    assert isinstance(kept.images, PictureFile) and torch.equal(kept.images[:], pairs.images)
    np.testing.assert_allclose(score(kept, "file"), score(pairs, "memory"))


def test_a_picture_file_reads_the_rows_asked_for(tmp_path, monkeypatch):
    pictures = torch.randint(256, (5, 3, 2, 2), dtype=torch.uint8)
    (tmp_path / "p").write_bytes(pictures.numpy().tobytes())
    file = PictureFile(tmp_path / "p", 2)
    assert file.shape == (5, 3, 2, 2) and torch.equal(file[3], pictures[3])
    assert torch.equal(file.take(torch.tensor([4, 1])), pictures[[4, 1]])
    monkeypatch.setattr(picture_file, "IN_MEMORY", 12)
    part = file.take(torch.tensor([4, 1, 1]))
    assert isinstance(part, PictureFile) and torch.equal(part[[2, 0]], pictures[[1, 4]])
    assert torch.equal(torch.cat(list(part.split(2))), pictures[[4, 1, 1]])


def test_a_feature_file_reads_the_rows_asked_for(tmp_path, make_clip):
    numbers = torch.arange(12.0).view(4, 3)
    (tmp_path / "f").write_bytes(numbers.numpy().tobytes())
    file = FeatureFile(tmp_path / "f", 3)
    assert len(file) == 4 and torch.equal(file[torch.tensor([2, 0])], numbers[[2, 0]])
    pairs = Pairs(list("abcd"), file, list("abcd"), torch.zeros(4))
    assert picture_features(make_clip("vit"), pairs, normalised=False) is file
    assert picture_features(make_clip("vit"), pairs).norm(dim=1).allclose(torch.ones(4))


def test_bad_input_is_one_line(tmp_path, model, table):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.docx").write_text("x")
    (tmp_path / "head.csv").write_text("file,caption\n")
    (tmp_path / "binary.csv").write_bytes(bytes(range(1, 128)) * 9)
    three = pd.read_csv(table).head(3)
    three.to_csv(tmp_path / "three.csv", index=False)
    three.rename(columns={"caption": "words"}).to_csv(tmp_path / "columns.csv", index=False)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no picture")
    cases = [
        ([tmp_path / "three.csv", "--model", model], "dao: k: 16 needs 18 pairs, there are 3"),
        ([tmp_path / "columns.csv", "--model", model], "--caption: is missing"),
        ([tmp_path / "none.csv", "--model", model], "no such dataset"),
        ([tmp_path / "notes.docx", "--model", model], "is no dataset"),
        ([tmp_path / "empty", "--model", model], "holds no pictures"),
        ([tmp_path / "broken", "--model", model], "holds no usable pair (1 x not a picture"),
        ([table, "--model", tmp_path / "empty"], "is no model folder"),
        ([table, "--model", tmp_path / "nothing"], "no such model"),
        ([table, "--model", table], "--arch: is missing"),
        ([tmp_path / "head.csv", "--model", model], "head.csv: holds no usable pair"),
        ([tmp_path / "binary.csv", "--model", model], "binary.csv: cannot be read as a table"),
        ([table, "--model", model, "--share", "2"], "--share: 2 should be a fraction"),
        ([table, "--model", model, "--detector", "decree"], "does not score pairs alone; known: ubt, dao"),
        ([tmp_path / "three.csv", "--model", model, "--detector", "ubt"], "batch_size: 128 is more than the"),
        (
            [
                table,
                "--model",
                model,
                "--detector",
                "clean_clip_score",
                "--settings",
                '{"scorer": "surrogates.public"}',
            ],
            "clean_clip_score: scores by a model of a study; run it in a study",
        ),
        (
            [table, "--model", model, "--detector", "clean_clip_score", "--settings", '{"scorer": "RN50/opnai"}'],
            "scorer: RN50/opnai: 'opnai' is neither a file, a folder nor a tag of 'RN50'; did you mean 'openai'?",
        ),
        (
            [table, "--model", model, "--detector", "ubt", "--settings", '{"scorer": "clean"}'],
            "ubt: scorer: 'clean' is none of auto, shuffle",
        ),
    ]
    for words, message in cases:
        with pytest.raises(UserError) as error:
            scanned(*words, "--output", tmp_path / "out")
        assert message in str(error.value), words
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_commands_list_themselves_fast_and_without_torch():
    code = (
        "import sys; sys.argv = ['antidote', '--help']; from antidote.command.__main__ import main; main(); "
        "assert not {'torch', 'pandas', 'open_clip', 'yaml'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "scan" in done.stdout and "example:" in done.stdout
