"""`antidote clean`: a defense on one's own model and pairs, accuracy before and after, one line for bad input."""

import io
import json
import logging
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_detectors import ToyModel

from antidote.attacks.trigger import Trigger, save_trigger
from antidote.base.errors import UserError
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import create_model, load_model, save_model
from antidote.command import audit, clean, init, methods, report, resume
from antidote.command import evaluate as evaluation
from antidote.command.audit import Auditor
from antidote.command.evaluate import evaluate
from antidote.command.given import Given
from antidote.data.access import DefenseData
from antidote.data.words.names import templates


@pytest.fixture
def place(tmp_path, make_clip):
    """A model, 24 captioned pictures, and the same pictures in class folders."""
    save_model(tmp_path / "model", make_clip("vit"), {"kind": "suspicious", "statement": "test"})
    noise = np.random.default_rng(0)
    for number in range(24):
        picture = Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8))
        for folder in ("pairs", f"test/{('cup', 'boat')[number % 2]}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / folder / f"{number}.png")
        (tmp_path / "pairs" / f"{number}.txt").write_text(f"a {('cup', 'boat')[number % 2]}, number {number}")
    return tmp_path


def cleaned(place, *words):
    words = [place / "model", "--output", place / "out", *words]
    clean.run(clean.arguments().parse_args([str(word) for word in words]))


QUICK = ("--set", "training.epochs=1", "--set", "training.batch_size=8", "--set", "training.lr=1e-3")


def test_a_model_is_cleaned_and_its_accuracy_measured(place, caplog):
    caplog.set_level(logging.INFO, "antidote")
    cleaned(place, "--pairs", place / "pairs", "--labelled", place / "test", *QUICK)
    before, after = (load_model(place / name).network.state_dict() for name in ("model", "out"))
    assert any(not before[name].equal(after[name]) for name in before)
    card = json.loads((place / "out" / "card.json").read_text())
    assert card["settings"]["training"]["epochs"] == 1 and card["from"] == str(place / "model")
    assert "Clean accuracy (CA@1): " in caplog.text and f"page {place / 'out' / 'report.html'}" in caplog.text
    assert set(json.loads((place / "out" / "clean.json").read_text())["ca1"]) == {"before", "after"}
    assert not list(place.glob("*.work"))


def test_a_batch_of_more_pairs_than_given_is_told_before_anything_is_measured(place, monkeypatch):
    monkeypatch.setattr(clean, "scored", lambda *args: pytest.fail("measures"))
    with pytest.raises(UserError) as error:
        cleaned(place, "--pairs", place / "pairs", "--labelled", place / "test")
    assert str(error.value) == (
        "cleanclip: training.batch_size: 64 is more than the 24 pairs of --pairs; give more, or "
        "--set training.batch_size=24 or less"
    )


def test_what_a_defense_found_stands_in_the_card_and_on_the_page(place):
    search = ("targets=2", "captions=24", "tuned=8", "analysed=8", "inversion.steps=2", "inversion.pictures=8",
              "inversion.batch_size=8")  # fmt: skip
    words = [word for setting in search for word in ("--set", setting)]
    cleaned(place, "--pairs", place / "pairs", "--defense", "invertune", *QUICK, *words)
    found = json.loads((place / "out" / "card.json").read_text())["evidence"]
    assert found["caption"].startswith(("a cup, number", "a boat, number"))
    assert json.loads((place / "out" / "clean.json").read_text())["found_caption"] == found["caption"]
    assert found["caption"] in (place / "out" / "report.html").read_text()


def test_a_defense_by_an_adapter_says_what_it_does_not_protect(place):
    """The weights are those of the suspicious model: who loads the folder by open_clip alone is not protected."""
    words = ("--defense", "imbert_clip", "--set", "masked=1", "--labelled", place / "test")
    cleaned(place, *words)
    before, after = (load_model(place / name).network.state_dict() for name in ("model", "out"))
    assert all(before[name].equal(after[name]) for name in before)
    card, facts = (json.loads((place / "out" / name).read_text()) for name in ("card.json", "clean.json"))
    told = clean.method("adapter", "patch_masking").unprotected
    for one in (card, facts):
        assert (one["adapter"], one["not_protected"]) == ("patch_masking", told)
    sentence = "The protection is in adapter.json; open_clip alone loads the suspicious model."
    page = (place / "out" / "report.html").read_text()
    assert sentence in facts["verdict"] and sentence in page and told in page and "patch_masking" in page
    cleaned(place, *words)  # the same run again is no other run because of the adapter
    cleaned(place, "--pairs", place / "pairs", *QUICK, "--output", place / "plain")
    assert "adapter" not in json.loads((place / "plain" / "card.json").read_text())
    assert sentence not in (place / "plain" / "report.html").read_text()


def test_accuracy_counts_labels(place):
    clip = load_model(place / "model")
    pictures, names = Given().labels(place / "test", clip.size)
    assert names == ["boat", "cup"] and pictures.labels.bincount().tolist() == [12, 12]
    weights = clip.class_embeddings(names, templates("openai_imagenet"))
    hit = (clip.encode_image(pictures.images) @ weights).argmax(dim=1) == pictures.labels
    found = evaluate(clip, place / "test")
    assert found["ca1"] == float(hit.double().mean()) and found["pictures"] == 24
    assert set(found) == {"ca1", "ca5", "pictures", "intervals"} and found["ca5"] is None, "there are two classes"


def trigger_of(folder, **changed):
    """Write the trigger of BadNet for the class `cup`; return its folder."""
    kind = clean.method("attack", "badnet")
    save_trigger(folder, Trigger(kind(kind.Settings.read({"method": "badnet", "poisons": 1}, "a"), "cup", 32), 0), "a")
    file = folder / "trigger.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    return folder


def test_a_cleaned_checkpoint_file_is_evaluated_with_the_file_of_its_model(place, monkeypatch, capsys):
    """The commands that `antidote init` writes into the file, with the checkpoint's architecture in it."""
    monkeypatch.chdir(place)
    torch.save(create_model(ModelSettings(name="tiny-rn"), seed=0).network.state_dict(), "model.pt")
    run = lambda command, *words: command.run(command.arguments().parse_args(words))
    run(init, "model.pt", "--arch", "tiny-rn", "--pairs", "pairs", "--labelled", "test")
    assert "#   antidote evaluate cleaned --given given.yaml\n" in (place / "given.yaml").read_text()
    run(clean, "--given", "given.yaml", "--defense", "cleanclip", "--output", "cleaned", *QUICK)
    capsys.readouterr()
    for words in (["cleaned"], []):
        run(evaluation, *words, "--given", "given.yaml")
        assert json.loads(capsys.readouterr().out)["pictures"] == 24


def test_a_trigger_is_scored(place):
    found = evaluate(place / "model", place / "test", trigger=trigger_of(place / "trigger"))
    assert found["target"] == "cup" and found["pictures_asr"] == 12


@pytest.mark.parametrize(("changed", "message"), [
    ({"target": "cupboard"}, r"^--trigger: .*trigger: aims at 'cupboard', which is no class of .*; did you mean 'cup'"),
    ({"target": None}, r"trigger\.json: should hold a target as text and a size in pixels"),
    ({"size": 32.0}, r"trigger\.json: should hold a target as text and a size in pixels"),
    ({"size": 64}, r"trigger: made for pictures of 64 pixels, the model reads 32"),
])  # fmt: skip
def test_a_trigger_of_another_class_or_size_is_told(place, changed, message):
    with pytest.raises(UserError, match=message):
        evaluate(place / "model", place / "test", trigger=trigger_of(place / "trigger", **changed))


def test_a_folder_without_a_trigger_is_told_before_the_pictures_are_read(place):
    with pytest.raises(UserError, match=r"^--trigger: .*test: holds no trigger\.json; should be results/STUDY/ATTACK"):
        evaluate(place / "model", place / "nowhere", trigger=place / "test")


def test_labelled_pictures_need_two_classes_with_pictures(place):
    shutil.rmtree(place / "test/cup")
    with pytest.raises(UserError, match=r"test: holds 1 class; should hold at least 2"):
        cleaned(place, "--pairs", place / "pairs", "--labelled", place / "test", *QUICK)
    assert not (place / "out").exists(), "told before the training"
    for name in ("apple", "zebra"):
        (place / "test" / name).mkdir()
        with pytest.raises(UserError, match=rf"test: class folder {name} holds no picture"):
            evaluate(load_model(place / "model"), place / "test")
        (place / "test" / name).rmdir()


def test_names_that_are_no_utf_8_are_told_before_the_work(place):
    """A model folder of such a name could be written and not read; a class of such a name is no text."""
    name = os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match=r"^--output: .*caf\\xe9: is not valid UTF-8; give it another name$"):
        cleaned(place, "--pairs", place / "pairs", *QUICK, "--output", place / name)
    (place / "test/cup").rename(place / "test" / name)
    with pytest.raises(UserError, match=r"test: caf\\xe9: is not valid UTF-8; give it another name$"):
        evaluate(place / "model", place / "test")


def test_class_names_need_letters(place):
    with pytest.raises(UserError, match=r"--classes: lists a name without letters"):
        Given(classes=["cup", " "]).names()


def test_options_are_not_abbreviated(place, capsys):
    with pytest.raises(SystemExit):
        cleaned(place, "--pair", place / "pairs")
    assert "unrecognized arguments: --pair" in capsys.readouterr().err


def test_words_become_settings():
    assert clean.assigned({"method": "x", "training": {"lr": 1.0}}, ["training.epochs=5", "training.lr=1e-5", "a=b"]) == {
        "method": "x", "training": {"lr": 1e-5, "epochs": 5}, "a": "b",
    }  # fmt: skip


def test_a_key_that_stands_twice_in_a_value_is_refused():
    word = "training={epochs: 1, epochs: 2, batch_size: 8}"
    with pytest.raises(UserError) as error:
        clean.assigned({}, [word])
    assert str(error.value) == f"--set: {word!r}: the value is not valid YAML ('epochs' stands there twice)"


@pytest.mark.parametrize(("words", "message"), [
    ([], "--pairs: is missing; cleanclip needs clean pairs"),
    (["--defense", "linear_probe"], "--shots: is missing; linear_probe needs labelled pictures"),
    (["--defense", "cleanklip"], "unknown defense method 'cleanklip'; did you mean 'cleanclip'?"),
    (["--pairs", "{place}/pairs", "--population", "results/x"], "--population: needs --audit"),
    (["--arch", "RN50"], "--arch: is for a checkpoint file; {place}/model is a model with a configuration of its own"),
    (["--defense", "ubt"], "ubt: needs access 'poisoned-training-set', which a study alone grants"),
    (["--set", "epochs"], "--set: 'epochs' should be KEY=VALUE"),
    (["--set", "training=5", "--set", "training.epochs=3"],
     "--set: 'training.epochs=3': training is 5 already; should be a group of settings"),
    (["--pairs", "{place}/pairs", "--labelled", "{place}/labelled.tar"],
     "--classes: is missing; {place}/labelled.tar has labels and no class names"),
    (["--set", "training.epoch=1"], "defense cleanclip: training.epoch: unknown key; did you mean 'epochs'?"),
    (["--pairs", "{place}/pairs", "--labelled", "{place}/pairs"], "holds pictures without a label"),
    (["--pairs", "{place}/pairs", "--labelled", "{place}/test", "--classes", "{place}/three.json"],
     "--classes: lists 3 names"),
    (["--pairs", "{place}/pairs", "--output", "{place}/model"], "model: is the suspicious model; name another folder"),
])  # fmt: skip
def test_bad_input_is_one_line(place, words, message):
    (place / "three.json").write_text('["a", "b", "c"]')
    with tarfile.open(place / "labelled.tar", "w") as tar:
        for name, content in (("a.png", (place / "pairs" / "0.png").read_bytes()), ("a.txt", b"a"), ("a.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError) as error:
        cleaned(place, *(word.format(place=place) for word in words))
    assert message.format(place=place) in str(error.value) and "\n" not in str(error.value)
    assert not (place / "out").exists()


def test_a_run_resumes_only_as_itself(place):
    """The identity covers contents: other pictures or weights under the same path are another run."""
    kind = clean.method("defense", "cleanclip")
    clip, changed = load_model(place / "model"), load_model(place / "model")
    pairs = clean.inputs.load_pairs(place / "pairs", clean.inputs.USUAL, clip.size)
    black = clean.inputs.load_pairs(place / "pairs", clean.inputs.USUAL, clip.size)
    black.images[0] = 0
    next(changed.network.parameters()).data.add_(1)

    def made(clip=clip, pairs=pairs, seed=0, classes=None, **settings):
        one = kind(kind.Settings.read({"method": "cleanclip", **settings}, "d"), seed)
        with resume.work(place / "out", one, clip, DefenseData(pairs=pairs, classes=classes), "none") as work:
            return work.identity

    assert made() == made()
    others = [made(clip=changed), made(pairs=black), made(seed=1), made(classes=["a"]), made(training={"epochs": 3})]
    assert len({made(), *others}) == 6


def test_work_folders_go_at_the_end_and_after_bad_input_but_not_when_a_run_is_killed(place):
    kind = clean.method("defense", "cleanclip")
    one, clip = kind(kind.Settings.read({"method": "cleanclip"}, "d"), 0), load_model(place / "model")
    for error, left in ((None, False), (UserError("bad"), False), (KeyboardInterrupt(), True)):
        try:
            with resume.work(place / "out", one, clip, DefenseData(), "none") as work:
                work.folder.mkdir()
                if error:
                    raise error
        except (UserError, KeyboardInterrupt):
            pass
        assert (place / "out.cleanclip.work").exists() == left


def test_the_output_may_be_the_working_folder(place, monkeypatch):
    (place / "here").mkdir()
    monkeypatch.chdir(place / "here")
    cleaned(place, "--pairs", place / "pairs", "--output", ".", *QUICK)
    assert (place / "here" / "card.json").is_file() and not list(place.glob("*.work"))
    with pytest.raises(UserError, match="--output: /: should name a folder"):
        resume.work(Path("/"), None, None, DefenseData(), "none").__enter__()


def test_a_model_of_another_run_is_not_overwritten(place):
    """The default output, `cleaned`, would otherwise lose the model of the first run, or the suspicious one."""
    cleaned(place, "--pairs", place / "pairs", *QUICK)
    first = (place / "out/open_clip_model.safetensors").read_bytes()
    with pytest.raises(
        UserError, match=r"out: holds the model of model .*, defense cleanclip, seed 0, which would be lost"
    ):
        cleaned(place, "--pairs", place / "pairs", "--seed", "1", *QUICK)
    assert (place / "out/open_clip_model.safetensors").read_bytes() == first
    with pytest.raises(UserError, match="which would be lost: model, data, seed or settings differ"):
        cleaned(place, "--pairs", place / "pairs", *QUICK, "--set", "training.epochs=2")
    shutil.copytree(place / "pairs", place / "others")
    (place / "others/0.txt").write_text("a caption of its own")
    with pytest.raises(UserError, match="which would be lost: model, data, seed or settings differ"):
        cleaned(place, "--pairs", place / "others", *QUICK)
    assert (place / "out/open_clip_model.safetensors").read_bytes() == first
    (place / "out/clean.json").unlink()  # as a run leaves it that is killed while it audits the cleaned model
    cleaned(place, "--pairs", place / "pairs", *QUICK)  # the same run again
    (place / "out/card.json").write_text('{"kind": "defended", "settings": []}')
    with pytest.raises(
        UserError, match="holds the model of model None, defense unknown, seed None, which would be lost"
    ):
        cleaned(place, "--pairs", place / "pairs", *QUICK)
    (place / "out/card.json").unlink()
    weights = place / "out/open_clip_model.safetensors"
    with pytest.raises(UserError, match="holds a model of another origin, which would be lost"):
        words = [weights, "--arch", "tiny-vit", "--output", place / "out", "--pairs", place / "pairs"]
        clean.run(clean.arguments().parse_args([str(word) for word in words]))
    assert weights.read_bytes() == first


def test_the_same_run_keeps_what_an_earlier_one_measured(place, monkeypatch):
    monkeypatch.setattr(audit, "method", lambda kind, name: ToyModel)
    monkeypatch.setattr(methods, "DETECTORS", {"toy": ToyModel})
    monkeypatch.setattr(methods, "method", lambda kind, name: ToyModel)
    told = lambda: json.loads((place / "out/clean.json").read_text())
    cleaned(place, "--pairs", place / "pairs", "--audit", "toy", *QUICK)
    audited = told()["audit"]
    assert [one["detector"] for one in audited["after"]] == ["toy"]
    cleaned(place, "--pairs", place / "pairs", "--labelled", place / "test", *QUICK)
    accuracy = told()["ca1"]
    assert told()["audit"] == audited and set(accuracy) == {"before", "after"}
    cleaned(place, "--pairs", place / "pairs", *QUICK)
    assert told()["audit"] == audited and told()["ca1"] == accuracy and "Audit before: " in told()["verdict"]
    measured = told()

    def killed(*words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Auditor, "findings", lambda self, clip, given, lexicon, runs: [] if runs else killed())
        with pytest.raises(KeyboardInterrupt):
            cleaned(place, "--pairs", place / "pairs", *QUICK)
    assert {key: told()[key] for key in ("ca1", "audit")} == {key: measured[key] for key in ("ca1", "audit")}
    (place / "out/clean.json").write_text('{"ca1": 3}')
    with pytest.raises(UserError, match=r"clean\.json: holds no results of this version; name another folder"):
        cleaned(place, "--pairs", place / "pairs", *QUICK)


def test_no_other_command_writes_into_the_folder_of_a_defended_model(place):
    cleaned(place, "--pairs", place / "pairs", *QUICK)
    (place / "out/clean.json").unlink()  # as a run leaves it that is killed while it audits the cleaned model
    (place / "out/report.html").unlink()
    for command in ("audit", "scan", "inspect"):
        with pytest.raises(UserError, match=r"out: holds a defended model \(card\.json\); name another folder"):
            report.kept(place / "out", command)
    (place / "out/card.json").write_text("{")
    with pytest.raises(UserError, match=r"^--output: .*card\.json.*; name another folder, or remove it"):
        report.kept(place / "out", "audit")
    assert report.kept(place / "out", "clean") == place / "out"
