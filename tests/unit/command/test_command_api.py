"""The Python API: the functions of the commands, the examples of docs/python.md, and the audits of `clean`."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from antidote import api
from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import create_model, load_model, save_model
from antidote.command import audit, clean, methods, patience, resume
from antidote.command.given import Given
from antidote.data.access import DefenseData
from antidote.detectors.base import MODEL, Detector, DetectorSettings, Scores

QUICK = {"training": {"epochs": 1, "batch_size": 8, "lr": 1e-3}}


@pytest.fixture
def place(tmp_path, make_clip, monkeypatch):
    """A model, 24 captioned pictures as a folder and as a table, and the same pictures in class folders."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "suspicious", make_clip("vit"), {"kind": "suspicious", "statement": "test"})
    noise, rows = np.random.default_rng(0), ["file,caption"]
    for number in range(24):
        picture = Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8))
        for folder in ("pictures", f"test/{('cup', 'boat')[number % 2]}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / folder / f"{number}.png")
        rows.append(f"pictures/{number}.png,a {('cup', 'boat')[number % 2]} {number}")
    (tmp_path / "clean.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


class FirstWeight(Detector):
    """The mean of the first parameter, which a defense changes; a verdict of its own threshold."""

    class Settings(DetectorSettings):
        method: str = "first_weight"

    subject = "model"

    def score(self, clip, data, work):
        return Scores([MODEL], np.array([float(next(clip.network.parameters()).detach().mean())]), 0.5)


@pytest.mark.parametrize(("call", "told"), [
    (lambda: api.audit("suspicious", "clean.csv"), "given: should be Given(pairs=...), with shots, labelled or classes, "
                                                   "not 'clean.csv'"),
    (lambda: api.clean("suspicious", {"pairs": 1}), "given: should be Given(pairs=...), with shots, labelled or classes, "
                                                    "not dict"),
    (lambda: api.inspect("suspicious", "pictures", "scale_up", ["cup"]), "given: should be Given(pairs=...)"),
    (lambda: api.evaluate("suspicious", "test", "classes.json"), "given: should be Given(pairs=...)"),
    (lambda: api.audit("suspicious", detectors="amdet"), "detectors: should be a list of names, as ['amdet'], not 'amdet'"),
    (lambda: api.clean("suspicious", api.Given(pairs="clean.csv"), detectors="amdet"), "detectors: should be a list"),
])  # fmt: skip
def test_an_argument_of_another_kind_is_one_line(place, call, told):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("call", [
    lambda: api.load(""),
    lambda: api.scan("clean.csv", ""),
    lambda: api.scan("", "suspicious"),
    lambda: api.evaluate("suspicious", ""),
    lambda: api.audit("suspicious", Given(pairs="")),
    lambda: api.audit("suspicious", Given(labelled="")),
    lambda: api.audit("suspicious", Given(pairs="clean.csv", classes="")),
    lambda: api.scan("clean.csv", "suspicious", output=""),
    lambda: api.audit("suspicious", Given(pairs="clean.csv"), output=""),
])  # fmt: skip
def test_an_empty_name_is_not_the_working_folder(place, call):
    with pytest.raises(
        UserError, match=r"^(model|dataset|--classes|--output): is an empty text; give a name or a path$"
    ):
        call()


def test_a_model_is_loaded_without_a_word_of_random_weights(place, caplog):
    api.load("suspicious")
    assert "initialized randomly" not in caplog.text


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_loaded_model_encodes_each_picture_by_itself_and_stays_as_it_is(place, make_pairs, kind):
    """Batch norm in training mode computes with the batch and overwrites the running statistics."""
    clip = create_model(ModelSettings(name="tiny-rn"), seed=0)
    save_model("rn", clip, {"kind": "suspicious", "statement": "test"})
    torch.save(clip.network.state_dict(), "rn.pt")
    loaded = api.load("rn" if kind == "folder" else api.Checkpoint("rn.pt", arch="tiny-rn"))
    images, before = make_pairs(8).images, resume.model_digest(loaded)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(images)[:4], loaded.encode_image(images[:4]))
    assert resume.model_digest(loaded) == before


@pytest.fixture
def toy(monkeypatch):
    real = methods.method
    chosen = lambda kind, name: FirstWeight if name == "first_weight" else real(kind, name)
    monkeypatch.setattr(audit, "method", chosen)
    monkeypatch.setattr(methods, "method", chosen)
    monkeypatch.setattr(methods, "DETECTORS", {"first_weight": FirstWeight})


def test_the_page_and_the_file_of_clean_hold_the_audit_before_and_after(place, toy):
    given = api.Given(pairs="clean.csv", labelled="test")
    found = api.clean("suspicious", given, settings=QUICK, detectors=["first_weight"], output="out")
    before, after = ([one.score for one in findings] for findings in found.audits)
    scores = [float(next(load_model(name).network.parameters()).detach().mean()) for name in ("suspicious", "out")]
    assert [*before, *after] == pytest.approx(scores) and before != after
    written = json.loads((place / "out" / "clean.json").read_text())
    assert written["audit"]["before"][0]["score"] == before[0] and written["ca1"]["after"] == found.accuracy[1]
    page = (place / "out" / "report.html").read_text()
    assert f"{before[0]:.4g}" in page and f"{after[0]:.4g}" in page and "Clean accuracy (CA@1)" in page
    thresholds = "before 0.5, not reached; after 0.5, not reached"
    assert f'<td data-name="the method&#39;s own threshold">{thresholds}</td>' in page
    assert "Audit before: no verdict: no population of this kind; after: no verdict" in page


def test_the_command_calls_the_function(place, toy):
    words = ["suspicious", "--pairs", "clean.csv", "--audit", "first_weight", "--set", "training.epochs=1"]
    clean.run(clean.arguments().parse_args([*words, "--set", "training.batch_size=8", "--output", "by_command"]))
    api.clean("suspicious", api.Given(pairs="clean.csv"), settings={"training": {"epochs": 1, "batch_size": 8}},
              detectors=["first_weight"], output="by_function")  # fmt: skip
    one, two = (load_model(name).network.state_dict() for name in ("by_command", "by_function"))
    assert all(one[name].equal(two[name]) for name in one)
    page = lambda name: re.sub(r"<td>\d+</td>", "", (place / name / "report.html").read_text())
    assert page("by_command") == page("by_function")


def test_an_unknown_detector_of_the_audit_ends_before_the_defense(place):
    with pytest.raises(api.UserError, match="'strip' does not score models"):
        api.clean("suspicious", api.Given(pairs="clean.csv"), detectors=["strip"], output="out")
    assert not (place / "out").exists()


def test_a_model_and_pairs_in_memory_need_no_files_and_write_none(place, make_pairs):
    clip = api.load("suspicious")
    found = api.audit(clip, api.Given(classes=["cup", "boat"]), detectors=["max_margin", "decree"])
    assert found.facts["model"] == "a model in memory"
    assert [one.left_out for one in found.findings][1] == "needs clean pairs (--pairs)"
    cleaned = api.clean(clip, api.Given(pairs=make_pairs()), settings=QUICK)
    assert cleaned.accuracy is None and cleaned.audits == ([], [])
    assert sorted(path.name for path in place.iterdir()) == ["clean.csv", "pictures", "suspicious", "test"]


def test_long_detectors_are_named_beforehand_with_their_work(place, toy, make_clip, monkeypatch, caplog):
    caplog.set_level("INFO", "antidote")
    monkeypatch.setattr(FirstWeight, "work", classmethod(lambda cls, settings, sizes: (1000, 300)))
    detector = FirstWeight(FirstWeight.Settings(), 0)
    for each, expected in ((0.05, False), (2.0, True)):
        monkeypatch.setattr(patience, "of_one", lambda clip, kind, each=each: each)
        patience.warn(make_clip("vit"), [(detector, DefenseData())])
        assert ("first_weight: about 1,100 gradients of pictures, about 37 min" in caplog.text) == expected


def test_clean_names_a_long_detector_once_for_both_audits(place, toy, monkeypatch, caplog):
    caplog.set_level("INFO", "antidote")
    monkeypatch.setattr(FirstWeight, "work", classmethod(lambda cls, settings, sizes: (1000, 300)))
    monkeypatch.setattr(patience, "of_one", lambda clip, kind: 2.0)
    api.clean("suspicious", api.Given(pairs="clean.csv"), settings=QUICK, detectors=["first_weight"])
    assert caplog.text.count("gradients of pictures") == 1
    assert "about 37 min on this machine, 2 times" in caplog.text


def test_detectors_of_which_the_data_are_too_few_are_not_named_beforehand(place, monkeypatch, caplog):
    caplog.set_level("INFO", "antidote")
    monkeypatch.setattr(patience, "of_one", lambda clip, kind: 2.0)
    reasons = {
        "decree": "1 different pictures are given; at least 16 are needed",
        "patch_places": "1 different pictures are given; at least 16 are needed",
        "seer": "1 different pictures are given; at least 16 are needed",
        "ssl_cleanse": "1 different pictures are given; at least 16 are needed",
        "amdet": "1 different captions are given; at least 16 are needed",
        "max_margin": "there are 2 classes; 10 at least are needed",
        "neural_cleanse": "there are 2 classes; 3 at least are needed",
    }
    found = api.audit("suspicious", api.Given(pairs="pictures/0.png", shots="test"), detectors=list(reasons))
    assert {one.detector: one.left_out for one in found.findings} == reasons
    assert "gradients of" not in caplog.text and all(
        f"{name}: left out: {reasons[name]}" in caplog.text for name in reasons
    )


def test_a_detector_whose_score_is_known_is_not_named_beforehand(place, toy, monkeypatch, caplog):
    caplog.set_level("INFO", "antidote")
    monkeypatch.setattr(FirstWeight, "work", classmethod(lambda cls, settings, sizes: (1000, 300)))
    monkeypatch.setattr(patience, "of_one", lambda clip, kind: 2.0)
    for seed, named in ((0, 1), (0, 1), (1, 2)):
        api.audit("suspicious", detectors=["first_weight"], seed=seed, output="out")
        assert caplog.text.count("gradients of pictures") == named
    assert "first_weight: taken from the earlier audit" in caplog.text


@pytest.mark.parametrize("kind", ["pictures", "captions"])
def test_the_trial_leaves_the_model_as_it_was(kind, make_clip):
    clip = make_clip("rn")
    before = {name: tensor.clone() for name, tensor in clip.network.state_dict().items()}
    assert patience.of_one(clip, kind) > 0
    assert all(tensor.equal(before[name]) for name, tensor in clip.network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in clip.network.parameters())


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (130, "2 min"), (7200, "2 h"), (200000, "2 days")])
def test_durations_are_readable(seconds, text):
    assert patience.readable(seconds) == text


def test_the_api_imports_without_torch():
    code = "import sys; from antidote import api; assert not {'torch', 'open_clip'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_example_of_the_page_runs(place):
    """The blocks of docs/python.md run one after another, as one program."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), flags=re.DOTALL)
    program = "\n".join(blocks)
    assert all(f"api.{name}(" in program for name in ("load", "audit", "scan", "inspect", "clean", "evaluate"))
    names = {}
    exec(
        compile(program.replace("found = api.audit(", "found = audited = api.audit("), "docs/python.md", "exec"), names
    )
    assert [one.left_out for one in names["audited"].findings] == [""], "the page's example gets a score"
    assert {"audit", "cleaned", "inspected", "scan"} <= {path.name for path in place.iterdir()}


def test_leftovers_of_archives_are_no_classes(tmp_path):
    from antidote.command.given import _folders

    for name in ("boat", "cup", "__MACOSX", "@eaDir", ".cache"):
        (tmp_path / name).mkdir()
    assert _folders(tmp_path) == ["boat", "cup"]


def test_inspect_gives_clean_pairs_to_a_detector_that_learns_from_them(place, tmp_path):
    from antidote.command import inspect as command

    parsed = command.arguments().parse_args(["m", "p", "--detector", "dede", "--pairs", "clean.csv"])
    assert Given.of(parsed).pairs == "clean.csv"
    kind = methods.detector_of("pictures", "dede")
    with pytest.raises(UserError, match="--pairs: is missing; dede learns from clean pairs"):
        command.granted(kind, Given(), 32, "dede", 0)


COMMANDS = {
    "audit": lambda output: api.audit("model", output=output),
    "scan": lambda output: api.scan("pairs.csv", "model", output=output),
    "inspect": lambda output: api.inspect("model", "pictures", "backdoor_ids", output=output),
    "clean": lambda output: api.clean("model", output=output),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_results_of_another_command_are_not_replaced(command, tmp_path):
    """Told before anything is read: there is neither a model nor a dataset here."""
    for other in COMMANDS.keys() - {command}:
        place = tmp_path / other
        place.mkdir()
        (place / f"{other}.json").write_text("{}")
        with pytest.raises(UserError) as error:
            COMMANDS[command](place)
        assert str(error.value) == (
            f"--output: {place}: holds results of `antidote {other}` ({other}.json), which would be lost; name another "
            "folder"
        )


def test_a_damaged_file_of_an_earlier_run_says_what_to_do(place):
    (place / "out").mkdir()
    for name, run in {"scan.json": COMMANDS["scan"], "card.json": COMMANDS["clean"],
                      "audit.json": lambda output: api.audit("suspicious", output=output)}.items():  # fmt: skip
        (place / "out" / name).write_text("{")
        with pytest.raises(
            UserError, match=rf"^--output: .*{name}: not valid JSON \(.*\); name another folder, or remove"
        ):
            run(place / "out")
        (place / "out" / name).unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_root_of_the_file_system_is_no_output(command):
    with pytest.raises(UserError, match=r"^--output: /: should name a folder$"):
        COMMANDS[command]("/")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_that_no_command_wrote_is_not_replaced(command, tmp_path):
    """The summary of a study has a page of the same name."""
    (tmp_path / "report.html").write_text("a study")
    with pytest.raises(
        UserError, match=rf"holds report\.html and no {command}\.json: report\.html would be lost; name"
    ):
        COMMANDS[command](tmp_path)


@pytest.mark.parametrize("name", ["audit.json", "open_clip_config.json"])
def test_a_model_is_cleaned_into_no_folder_of_another_origin(name, place):
    """A model folder with pickled weights has a configuration of the same name."""
    (place / "out").mkdir()
    (place / "out" / name).write_text("{}")
    with pytest.raises(UserError, match=r"out: holds (results of `antidote audit`|a model of another origin)"):
        api.clean("suspicious", Given(pairs="clean.csv"), settings=QUICK, output="out")
    assert [path.name for path in (place / "out").iterdir()] == [name]
