"""Class names and templates by name; bad files and unknown names in one line."""

import json
import subprocess
import sys

import pytest

from antidote.base.errors import UserError
from antidote.base.files import DATA
from antidote.data.words import names


@pytest.fixture
def data(tmp_path, monkeypatch):
    for kind in ("classes", "templates"):
        (tmp_path / kind).mkdir()
    monkeypatch.setattr(names, "DATA", tmp_path)
    return tmp_path


def test_every_file_of_the_project_is_valid():
    for path in (DATA / "classes").glob("*.json"):
        assert names.class_names(path.stem)
    for path in (DATA / "templates").glob("*.json"):
        assert names.templates(path.stem)


def test_openai_lists_are_open_clips():
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    assert names.class_names("openai_imagenet") == list(IMAGENET_CLASSNAMES)
    for name, reference in (
        ("openai_imagenet", OPENAI_IMAGENET_TEMPLATES),
        ("openai_imagenet_simple", SIMPLE_IMAGENET_TEMPLATES),
    ):
        ours = [template.format("golf ball") for template in names.templates(name)]
        assert ours == [template("golf ball") for template in reference]


def test_openai_lists_do_not_import_torch():
    code = (
        "import sys; from antidote.data.words import names; names.class_names('openai_imagenet');"
        "names.templates('openai_imagenet'); sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=DATA.parent)


def test_unknown_names_name_the_nearest():
    with pytest.raises(UserError, match=r"^classes: unknown name 'imagenete'; did you mean 'imagenette'\?$"):
        names.class_names("imagenete")
    with pytest.raises(UserError, match=r"^templates: unknown name 'simpel'; did you mean 'simple'\?$"):
        names.templates("simpel")
    with pytest.raises(UserError, match="did you mean 'openai_imagenet'"):
        names.class_names("openai-imagenet")


@pytest.mark.parametrize("content", ["{}", "[]", "[1]", '["a", ""]', '"a"', "[", '["cat", "cat"]'])
def test_bad_class_files_give_one_line(data, content):
    (data / "classes" / "mine.json").write_text(content)
    with pytest.raises(UserError) as error:
        names.class_names("mine")
    assert "mine.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "template", ["a photo", "a {} and a {}", "a {0}", "a {name}", "a {", "a {} {x}", "a {} }", "a {:d}"]
)
def test_templates_need_one_gap(data, template):
    (data / "templates" / "mine.json").write_text(json.dumps(["a {}.", template]))
    with pytest.raises(UserError, match=r"should hold one \{\} for the class name"):
        names.templates("mine")


# --- what a caption names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "word", "expected"),
    [
        ("A Banana.", "banana", True),
        ("two bananas", "banana", True),
        ("BANANAS", "banana", True),
        ("the banana's skin", "banana", True),
        ("bananarama", "banana", False),
        ("pre-banana", "banana", True),
        ("a golf  ball", "golf ball", True),
        ("a golf\nball", "golf ball", True),
        ("golf balls", "golf ball", True),
        ("golfs ball", "golf ball", False),
        ("a golf-ball", "golf ball", False),
        ("two boxes", "box", True),
        ("wineglasses", "glass", False),
        ("churches", "church", True),
        ("boxs", "box", False),
        ("ladies", "lady", True),
        ("ladys", "lady", False),
        ("two monkeys", "monkey", True),
        ("monkeies", "monkey", False),
        ("volcanoes and volcanos", "volcano", True),
        ("volcanoes", "volcano", True),
        ("a wolves", "wolf", False),
        ("a kite (bird of prey) above", "kite (bird of prey)", True),
        ("a kite (bird\tof prey)", "kite (bird of prey)", True),
        ("kite (bird of prey)s", "kite (bird of prey)", False),
        ("price (usd)", "(usd)", True),
        ("über", "ber", False),
        ("", "banana", False),
    ],
)
def test_what_a_caption_names(caption, word, expected):
    assert names.mentions(caption, word) is expected
    assert names.mentioning([caption, "x"], word).tolist() == [expected, False]


def test_every_imagenet_class_is_found_in_its_own_prompt():
    """Six names end in a parenthesis; every plural of one word that ends in a letter is another word."""
    classes = names.class_names("openai_imagenet")
    assert sum(name.endswith(")") for name in classes) == 6
    assert all(names.mentions(f"a photo of a {name}.", name) and names.mentions(name.upper(), name) for name in classes)
