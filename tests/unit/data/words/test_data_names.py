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
