"""Every defense of the registry keeps the contract; CleanCLIP's loss and views against plain references."""

import dataclasses
import random
from typing import get_args

import pytest
import torch

from antidote.base.errors import UserError
from antidote.base.files import read_json
from antidote.base.fingerprint import reachable
from antidote.base.registry import DEFENSES, method, module
from antidote.base.seeds import derive
from antidote.clip.folder import ADAPTER, load_model, save_model
from antidote.data.access import POOLS, Access, DefenseData
from antidote.data.words.eda import augment
from antidote.data.words.lexicon import load_lexicon
from antidote.defenses.cleanclip import CleanCLIP, CleanCLIPSettings
from antidote.training.objectives import Batch, Contrastive
from antidote.training.recipe import TrainSettings
from antidote.training.session import Work

CLASSES, TEMPLATES = ["banana", "boat", "cup", "key", "moon"], ["a photo of a {}.", "the {}"]


def data_for(kind, pairs, lexicon):
    """Return what the access level grants, and nothing else."""
    use = {"classes": CLASSES, "templates": TEMPLATES}
    return DefenseData(
        **{
            "clean-pairs": {"pairs": pairs, "lexicon": lexicon},
            "few-labelled": {"shots": pairs, **use},
            "poisoned-training-set": {"training_set": pairs},
            "oracle": {"training_set": pairs, "poisoned": frozenset(pairs.keys[:3])},
            "test-time": use,
        }.get(kind.access, {})
    )


@pytest.fixture
def defended(make_clip, make_pairs, scenes_lexicon, small, tmp_path):
    """Return what runs a defense on the tiny model: the model that comes out, its report."""

    def run(name, seed=0, folder="work"):
        kind, clip = method("defense", name), make_clip("vit")
        settings = kind.Settings.read({"method": name, **small(kind.Settings)}, name)
        assert kind.fits(clip.config["model_cfg"]) is None
        settings.check(clip.config["model_cfg"])
        report = kind(settings, seed).run(
            clip, data_for(kind, make_pairs(10), scenes_lexicon), Work(tmp_path / folder, "test")
        )
        return report.clip or clip, report

    return run


def use_of(clip, images):
    """Return what zero-shot use makes of a model: scores, and what they are made of."""
    with torch.no_grad():
        clip.network.eval()
        encoded, weights = clip.encode_image(images), clip.class_embeddings(CLASSES, TEMPLATES)
        return encoded, weights, encoded @ weights


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFENSES)
def test_a_tiny_run(defended, make_clip, make_pairs, tmp_path, name):
    """It changes the model, unless it is `none`; follows its seed; counts its cost; what it made is kept and loads."""
    images = make_pairs(4, seed=9).images
    clip, report = defended(name)
    found = use_of(clip, images)
    assert all(part.isfinite().all() for part in found)
    assert same(found, use_of(make_clip("vit"), images)) == (name == "none")
    assert (report.trained_parameters == 0) == (name == "none") or method("defense", name).access == "test-time"
    assert report.steps >= 0 and 0 <= report.pairs <= 10
    assert same(found, use_of(defended(name, folder="again")[0], images)), "the same seed gives the same model"
    save_model(tmp_path / "model", clip, {}, extra=report.files)
    torch.testing.assert_close(use_of(load_model(tmp_path / "model"), images), found, rtol=1e-5, atol=1e-6)
    assert read_json(tmp_path / "model" / ADAPTER)["adapter"] == method("defense", name).adapter
    written = {path.name for path in report.files}
    assert written == set(method("defense", name).files)


@pytest.mark.parametrize("name", [n for n in DEFENSES if method("defense", n).access not in ("nothing", "test-time")])
def test_another_seed_gives_another_model(defended, make_pairs, name):
    images = make_pairs(4, seed=9).images
    assert not same(use_of(defended(name, 0, "a")[0], images), use_of(defended(name, 1, "b")[0], images))


@pytest.mark.parametrize("name", DEFENSES)
def test_statements(name):
    kind = method("defense", name)
    assert kind.access in get_args(Access) and isinstance(kind.reconstruction, bool) and kind.__doc__
    assert kind.reconstruction == ("econstruction" in __import__(module("defense", name), fromlist=["x"]).__doc__)
    assert (kind.access == "oracle") == ("oracle" in name), "a control that knows the poison says so"


@pytest.mark.parametrize("name", DEFENSES)
def test_settings(name):
    kind = method("defense", name).Settings
    settings = kind.read({"method": name}, "x")
    assert settings.method == name and kind.read(settings.model_dump(mode="json"), "x") == settings
    assert not [key for key, field in kind.model_fields.items() if not field.description and key != "method"]
    with pytest.raises(UserError, match=r"^x: lable: unknown key; did you mean 'label'\?$"):
        kind.read({"method": name, "lable": "A"}, "x")


@pytest.mark.parametrize("name", DEFENSES)
def test_every_recipe_is_declared(name):
    """Those of the settings; the oracle does not overfit. What a step encodes is positive."""
    kind = method("defense", name)
    settings = kind.Settings.read({"method": name}, "x")
    values = {key: getattr(settings, key) for key in kind.Settings.model_fields}
    recipes = {key: value for key, value in values.items() if isinstance(value, TrainSettings)}
    if name == "ubt_oracle":
        del recipes["overfit"]
    assert settings.recipes() == recipes
    for recipe in recipes.values():
        pictures, texts, copies = kind.step_views(settings, recipe)
        assert pictures >= 1 and texts >= 0 and copies in (0, 1)
    assert settings.surrogate is None and settings.public is None


@pytest.mark.parametrize("name", DEFENSES)
def test_no_defense_can_reach_an_attack(name):
    """Neither its source nor the script that runs it reads triggers, attacks or the evaluation."""
    code = reachable("scripts.defend", module("defense", name))
    forbidden = {
        "antidote.attacks.trigger",
        "antidote.evaluation.zero_shot",
        "antidote.evaluation.metrics",
        "antidote.evaluation.examples",
        "antidote.study.study",
    }
    assert not code & forbidden and not [part for part in code if part.startswith("antidote.attacks")]


def test_what_defenses_are_handed_names_no_attack():
    fields = {field.name for field in dataclasses.fields(DefenseData)}
    assert not [field for field in fields if any(word in field for word in ("trigger", "target", "manifest", "attack"))]
    assert set(POOLS) <= set(get_args(Access)) and POOLS["clean-pairs"] == ("defense",)


def test_none_leaves_every_weight(defended, make_clip):
    clip, report = defended("none")
    before = make_clip("vit").network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in clip.network.state_dict().items())
    assert (report.steps, report.trained_parameters, report.pairs) == (0, 0, 0)


def test_finetune_is_clips_own_loss_over_all_parameters(defended, make_clip):
    clip, report = defended("finetune")
    assert report.trained_parameters == sum(p.numel() for p in clip.network.parameters())
    kind = method("defense", "finetune")
    assert type(kind(kind.Settings(), 0).objective(make_clip(), DefenseData())) is Contrastive


# --- CleanCLIP -------------------------------------------------------------------------------------------------------


def features(count, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 6, generator=generator, dtype=torch.double)
    return values / values.norm(dim=1, keepdim=True)


def cross_entropy(rows, columns, scale):
    """Return the mean over i of -log e^{s r_i c_i} / sum_j e^{s r_i c_j}, in plain Python."""
    total = 0.0
    for i, row in enumerate(rows):
        powers = torch.stack([(scale * (row * column).sum()).exp() for column in columns])
        total -= (powers[i] / powers.sum()).log().item()
    return total / len(rows)


def cleanclip(pairs, lexicon, seed=0, **settings):
    return CleanCLIP(CleanCLIPSettings.read(settings, "x"), seed).objective(None, DefenseData(pairs, lexicon))


def batch_of(pairs, rows):
    rows = torch.tensor(rows)
    return Batch(pairs.images[rows], [pairs.captions[i] for i in rows], rows, 0, 0, random.Random(0))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 4.0), (0.0, 1.0), (1.0, 0.0)])
def test_cleanclips_loss_equals_the_formula(make_pairs, scenes_lexicon, weights):
    """One direction only in the self-supervised term: original against augmented."""
    goal = cleanclip(make_pairs(6), scenes_lexicon, contrastive_weight=weights[0], self_supervised_weight=weights[1])
    image, augmented, text, changed = (features(6, seed) for seed in range(4))
    scale = torch.tensor(9.0, dtype=torch.double)
    loss, terms = goal.loss([image, augmented], [text, changed], scale, None)
    contrastive = (cross_entropy(image, text, 9.0) + cross_entropy(text, image, 9.0)) / 2
    self_supervised = (cross_entropy(image, augmented, 9.0) + cross_entropy(text, changed, 9.0)) / 2
    assert loss.item() == pytest.approx(weights[0] * contrastive + weights[1] * self_supervised, abs=1e-6)
    assert terms["contrastive"].item() == pytest.approx(contrastive, abs=1e-6)
    assert terms["self_supervised"].item() == pytest.approx(self_supervised, abs=1e-6)
    turned = (cross_entropy(augmented, image, 9.0) + cross_entropy(changed, text, 9.0)) / 2
    assert abs(turned - self_supervised) > 1e-3, "the other direction is another number"


def test_cleanclips_loss_equals_the_published_implementations(make_pairs, scenes_lexicon):
    """The value was taken from nishadsinghi/CleanCLIP's `get_loss` (src/train.py, in-modal, weights 1), on these."""
    numbers = torch.arange(8 * 16, dtype=torch.float64)
    drawn = [(numbers * numbers * 0.37 + shift).sin().reshape(8, 16) for shift in range(4)]
    image, augmented, text, changed = (values / values.norm(dim=1, keepdim=True) for values in drawn)
    goal = cleanclip(make_pairs(8), scenes_lexicon)
    loss, _ = goal.loss([image, augmented], [text, changed], torch.tensor(1 / 0.07, dtype=torch.float64), None)
    assert loss.item() == pytest.approx(9.464935283620338, abs=1e-6)


def test_cleanclips_captions_are_augmented_once_per_run(make_pairs, scenes_lexicon):
    pairs = make_pairs(30)
    one, same_seed, other = (cleanclip(pairs, scenes_lexicon, seed).augmented for seed in (0, 0, 1))
    assert one == same_seed != other
    rng = random.Random(derive(0, "eda"))
    assert one == [augment(caption, scenes_lexicon, rng) for caption in pairs.captions]
    texts = cleanclip(pairs, scenes_lexicon).views(batch_of(pairs, [7, 2])).texts
    assert texts == [[pairs.captions[7], pairs.captions[2]], [one[7], one[2]]]


def test_cleanclips_pictures_are_augmented_at_every_access(make_pairs, scenes_lexicon):
    pairs = make_pairs(12)
    goal, batch = cleanclip(pairs, scenes_lexicon), batch_of(pairs, list(range(12)))
    views = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        original, augmented = goal.views(batch).images
        assert torch.equal(original, pairs.images) and augmented.shape == original.shape
        assert augmented.dtype == torch.uint8
        views.append(augmented)
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    differ = (views[0] != pairs.images).flatten(1).any(1)
    assert differ.sum() >= 6, "most pictures change"


def test_a_lexicon_without_synonyms_is_told(make_pairs, scenes_lexicon, caplog):
    """The commands' default lexicon has none: of the views of a caption, more are the caption itself."""
    pairs = make_pairs(4, captions=["A Ball!"] * 4)
    cleanclip(pairs, scenes_lexicon)
    assert not caplog.text
    cleanclip(pairs, load_lexicon("function_words"))
    assert "cleanclip: the lexicon has no synonym of any caption word" in caplog.text


def test_cleanclip_announces_both_captions(make_pairs, scenes_lexicon):
    goal = cleanclip(make_pairs(8), scenes_lexicon)
    assert set(goal.texts()) == {*goal.pairs.captions, *goal.augmented}


def test_defaults_are_those_of_the_released_code():
    settings = CleanCLIPSettings()
    assert (settings.contrastive_weight, settings.self_supervised_weight) == (1, 1)
    recipe = TrainSettings()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.warmup) == (10, 64, 1e-5, 50)
    assert (recipe.beta1, recipe.beta2, recipe.eps, recipe.weight_decay) == (0.9, 0.999, 1e-8, 0.1)
