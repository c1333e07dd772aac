"""Models: created, kept and loaded without change; what cannot be loaded is told in one line."""

import copy
import importlib.metadata
import json
import pickle
import shutil

import open_clip
import pytest
import torch

from antidote.base.errors import UserError
from antidote.clip.configs import ModelSettings
from antidote.clip.folder import CARD, CONFIG, WEIGHTS, create_model, device, load_model, save_model

TEMPLATES = ["a photo of a {}.", "the {} in a garden", "{}"]


@pytest.fixture
def folder(make_clip, tmp_path):
    save_model(tmp_path / "model", make_clip(), {"kind": "clean"})
    return tmp_path / "model"


def told(error):
    """Return the one line of an error."""
    text = str(error.value)
    assert "\n" not in text and len(text) < 300
    return text


# --- features --------------------------------------------------------------------------------------------------------


def test_the_cut_after_the_longest_text_changes_nothing(make_clip):
    clip = make_clip()
    texts = ["", "banana", "a red banana lies on the table", " ".join(["word"] * 60)]
    for batch in (texts, texts[:2], texts[1:2], texts[3:]):
        whole = clip.network.encode_text(open_clip.SimpleTokenizer(context_length=24)(batch))
        expected = whole / whole.norm(dim=1, keepdim=True)
        torch.testing.assert_close(clip.encode_text(batch), expected, rtol=1e-5, atol=1e-6)


def test_tokens_are_open_clips(make_clip):
    clip, texts = make_clip(), ["A Photo, of a dog!", "&amp; café", "A Photo, of a dog!", " ".join(["long"] * 99)]
    assert torch.equal(clip.tokenize(texts), open_clip.SimpleTokenizer(context_length=24)(texts))
    assert torch.equal(clip.tokenize(texts[::-1]), clip.tokenize(texts).flip(0)), "kept ones too"


def test_bytes_and_fractions_are_the_same_picture(make_clip, make_pairs):
    clip, images = make_clip(), make_pairs(3).images
    features = clip.encode_image(images)
    torch.testing.assert_close(clip.encode_image(images.float() / 255), features, rtol=1e-6, atol=1e-6)
    mean, std = (torch.tensor(clip.config["preprocess_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    plain = clip.network.encode_image((images / 255 - mean) / std)
    torch.testing.assert_close(features, plain / plain.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)


def test_class_embeddings_are_normalised_means_over_templates(make_clip):
    clip, classes = make_clip(), [f"thing {number}" for number in range(13)]
    embeddings = clip.class_embeddings(classes, TEMPLATES)
    assert embeddings.shape == (16, 13)
    for column, name in zip(embeddings.T, classes, strict=True):
        total = torch.zeros(16)
        for template in TEMPLATES:
            feature = clip.network.encode_text(clip.tokenize([template.replace("{}", name)]))[0]
            total += feature / feature.norm()
        mean = total / len(TEMPLATES)
        torch.testing.assert_close(column, mean / mean.norm(), rtol=1e-5, atol=1e-6)


# --- create, save, load ----------------------------------------------------------------------------------------------


def test_the_seed_decides_random_weights():
    one, same, other = (create_model(ModelSettings(), seed).network.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["visual.conv1.weight"], other["visual.conv1.weight"])


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_save_and_load_change_nothing(make_clip, make_pairs, tmp_path, kind):
    clip, images = make_clip(kind), make_pairs(4).images
    save_model(tmp_path / "m", clip, {"kind": "clean"})
    again = load_model(tmp_path / "m")
    assert again.config == clip.config and again.size == 32
    assert torch.equal(again.encode_text(TEMPLATES), clip.encode_text(TEMPLATES))
    assert torch.equal(again.network.eval().encode_image(images / 255), clip.network.encode_image(images / 255))


def test_quick_gelu_and_random_weights_survive(tmp_path, make_pairs):
    clip = create_model(ModelSettings(quick_gelu=True), 0)
    save_model(tmp_path / "m", clip, {})
    again = load_model(tmp_path / "m")
    clip.network.eval(), again.network.eval()
    images = make_pairs(2).images
    assert torch.equal(again.encode_image(images), clip.encode_image(images))
    assert torch.equal(again.encode_text(["a dog"]), clip.encode_text(["a dog"]))
    without = load_with(tmp_path / "m", lambda config: config["model_cfg"].pop("quick_gelu"))
    assert not torch.equal(without.encode_text(["a dog"]), clip.encode_text(["a dog"]))


def load_with(folder, change):
    """Load a folder after changing its configuration."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))
    return load_model(folder)


def test_plain_open_clip_loads_the_folder(make_clip, make_pairs, folder):
    clip, images = make_clip(), make_pairs(3).images
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert torch.equal(network.eval().encode_image(images / 255), clip.network.encode_image(images / 255))
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a dog"])
    assert torch.equal(network.encode_text(tokens), clip.network.encode_text(tokens))
    assert preprocess.transforms[-1].mean == clip.config["preprocess_cfg"]["mean"]


def test_the_card_tells_what_was_given_and_by_which_versions(folder):
    card = json.loads((folder / CARD).read_text())
    assert card["kind"] == "clean" and card["made_with"]["torch"] == importlib.metadata.version("torch")


def test_extra_files_are_kept_and_nothing_appears_after_an_error(make_clip, tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    save_model(tmp_path / "m", make_clip(), {}, extra=[tmp_path / "train.jsonl"])
    assert (tmp_path / "m" / "train.jsonl").read_text() == "{}"
    with pytest.raises(FileNotFoundError):
        save_model(tmp_path / "n", make_clip(), {}, extra=[tmp_path / "missing"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "train.jsonl"]


def test_a_file_of_weights_is_a_start(tmp_path):
    clip = create_model(ModelSettings(), 5)
    torch.save(clip.network.state_dict(), tmp_path / "weights.pt")
    started = create_model(ModelSettings(pretrained=str(tmp_path / "weights.pt")), 0)
    assert torch.equal(started.network.token_embedding.weight, clip.network.token_embedding.weight)


# --- what cannot be loaded -------------------------------------------------------------------------------------------


def test_unknown_model():
    with pytest.raises(UserError) as error:
        create_model(ModelSettings(name="tiny-m"), 0)
    assert told(error) == "model.name: unknown model 'tiny-m'; did you mean 'tiny-rn'?"


def test_unknown_tag():
    with pytest.raises(UserError) as error:
        create_model(ModelSettings(name="RN50", pretrained="opnai"), 0)
    assert told(error) == (
        "model.pretrained: 'opnai' is neither a file, a folder nor a tag of 'RN50'; did you mean 'openai'?"
    )
    with pytest.raises(UserError) as error:
        create_model(ModelSettings(pretrained="nowhere.pt"), 0)
    assert told(error) == "model.pretrained: 'nowhere.pt' is neither a file, a folder nor a tag of 'tiny-rn'"


def test_a_tag_that_cannot_be_downloaded_says_what_to_do(monkeypatch, tmp_path):
    """conftest.py sets HF_HUB_OFFLINE; an empty cache, so that no earlier download answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        create_model(ModelSettings(name="RN50", pretrained="openai", quick_gelu=True), 0)
    assert told(error) == (
        "model.pretrained: 'openai' cannot be downloaded (HF_HUB_OFFLINE is set); put the weights file of "
        "timm/resnet50_clip.openai here and give its path"
    )


@pytest.mark.parametrize(("tag", "given", "wanted"), [("openai", False, "true"), ("cc12m", False, "true")])
def test_weights_need_their_own_activation(tag, given, wanted):
    """open_clip would go on with a warning, and the model would be a worse one."""
    with pytest.raises(UserError) as error:
        create_model(ModelSettings(name="RN50", pretrained=tag, quick_gelu=given), 0)
    assert told(error) == f"model.quick_gelu: should be {wanted} for the weights {tag!r} of 'RN50'"


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "xlm-roberta-base-ViT-B-32"])
def test_another_tokenizer_is_refused(name):
    with pytest.raises(UserError) as error:
        create_model(ModelSettings(name=name), 0)
    assert told(error) == (
        f"model.name: {name}: needs another tokenizer than OpenAI CLIP's, the only one that is supported"
    )


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_that_would_run_code_does_not(tmp_path):
    for kind, write in (("torch", torch.save), ("plain", lambda value, path: path.write_bytes(pickle.dumps(value)))):
        marker = tmp_path / f"ran-{kind}"
        write({"state_dict": Evil(str(marker))}, tmp_path / "evil.pt")
        with pytest.raises(UserError) as error:
            create_model(ModelSettings(pretrained=str(tmp_path / "evil.pt")), 0)
        assert told(error).startswith(f"model.pretrained: {tmp_path / 'evil.pt'}: damaged, or not plain weights")
        assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", None, [1, 2], {}, {"state_dict": {}}, {"a.weight": torch.zeros(2)}]
)
def test_a_file_that_holds_no_weights_of_this_model(tmp_path, content):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError) as error:
        create_model(ModelSettings(pretrained=str(path)), 0)
    assert told(error).startswith(f"model.pretrained: {path}: ")


def test_a_missing_or_damaged_folder(folder, tmp_path):
    with pytest.raises(UserError, match=rf"nowhere/{CONFIG}: cannot be read \(No such file or directory\)"):
        load_model(tmp_path / "nowhere")
    data = (folder / WEIGHTS).read_bytes()
    for damaged in (b"", data[:100], data[: len(data) // 2]):
        (folder / WEIGHTS).write_bytes(damaged)
        with pytest.raises(UserError) as error:
            load_model(folder)
        assert told(error).startswith(f"{folder / WEIGHTS}: damaged, or not plain weights")
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"{WEIGHTS}: no such file"):
        load_model(folder)


@pytest.mark.parametrize("text", ["{}", "[]", '{"model_cfg": {}}', "3"])
def test_a_configuration_of_something_else(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(UserError) as error:
        load_model(folder)
    assert told(error) == f"{folder / CONFIG}: should hold model_cfg and preprocess_cfg, as open_clip writes them"


def test_a_configuration_that_is_no_json(folder):
    (folder / CONFIG).write_text("{")
    with pytest.raises(UserError, match=f"{CONFIG}: not valid JSON"):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.update(embed_dim=32),
        lambda model: model["vision_cfg"].update(layers=1),
        lambda model: model.update(unknown_key=1),
        lambda model: model.pop("text_cfg"),
    ],
)
def test_weights_of_another_architecture(folder, change):
    with pytest.raises(UserError) as error:
        load_with(folder, lambda config: change(config["model_cfg"]))
    assert told(error).startswith(f"{folder / WEIGHTS}: cannot be loaded into ")


def test_a_model_in_the_place_of_an_older_one_replaces_all_its_files(make_clip, folder):
    other = copy.deepcopy(make_clip())
    with torch.no_grad():
        other.network.logit_scale.fill_(1.0)
    save_model(folder, other, {"kind": "other"})
    assert load_model(folder).network.logit_scale.item() == 1.0
    assert json.loads((folder / CARD).read_text())["kind"] == "other"


def test_own_models_are_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert create_model(ModelSettings(), 0).size == 32
    assert device().type in ("cpu", "cuda")
    shutil.rmtree(tmp_path)


def test_a_long_word_is_cut_and_keeps_its_tokens(make_clip):
    """open_clip's tokenizer needs time that grows with the square of a word's length: 23 s for 20,000 letters."""
    import random
    import string

    import open_clip

    rng = random.Random(0)
    letters = "".join(rng.choice(string.ascii_lowercase) for _ in range(3_000))
    plain = open_clip.SimpleTokenizer(context_length=make_clip("rn").network.context_length)
    texts = ["a photo of " + letters[:2_000], "a, b; " * 500, letters, "ab1!" * 800, "\u732b" * 900, "\U0001f602" * 900]
    ours = make_clip("rn").tokenizer
    assert torch.equal(ours(texts), plain(texts))
    words = ours.clean_fn("one " + letters * 7 + " two").split()
    assert words[0] == "one" and words[2] == "two" and len(words[1]) == 32 * plain.context_length
