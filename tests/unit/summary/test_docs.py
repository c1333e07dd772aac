"""What the documentation says can be done: its links lead somewhere, its commands, studies and examples work."""

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

from antidote.attacks.base import Attack, AttackSettings
from antidote.base import registry
from antidote.base.errors import UserError
from antidote.base.settings import read_mapping
from antidote.command.table import COMMANDS
from antidote.data.store.datasets import known_datasets
from antidote.defenses.base import Defense, DefenseSettings
from antidote.study import preflight
from antidote.study.layout import SUMMARY
from antidote.study.reference import methods_page, settings_page
from antidote.study.schema import study_schema
from antidote.study.study import Study

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page):
    """Return the commands of a page as lists of words, without comments; a backslash joins lines."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def anchors(page):
    heads = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


# What the commands of the documentation start besides the project's own.
PROGRAMS = ("snakemake", "dvc", "antidote", "pip", "mkdir", "curl", "echo", "unzip", "while", "rmdir", "eval")

HOMES = {dataset.get("homepage") for dataset in known_datasets().values()}


@PAGE
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            assert link.startswith("https://arxiv.org/abs/") or link in HOMES, link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@PAGE
def test_commands_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        elif words[0] == "python":
            script = words[1:2] if words[1] != "-m" else words[1:4]  # with its action
            assert set(options(words)) <= script_options(*script), words
        elif words[0] == "antidote" and words[1] != "--help":
            assert set(options(words)) <= command_options(words[1]), words
        elif words[0] == "pytest":
            assert all((ROOT / word).exists() for word in words[1:]), words
        else:
            assert words[0] in PROGRAMS, words


@cache
def command_options(name):
    """Return the options of a command of `antidote`; a command that runs a script has the script's."""
    assert name in COMMANDS, name
    if COMMANDS[name].script:
        return script_options(f"scripts/{name}.py")
    parser = importlib.import_module(f"antidote.command.{name}").arguments()
    return set(re.findall(r"--[a-z-]+", parser.format_help()))


def options(words):
    return [word for word in words if word.startswith("--")]


@cache
def script_options(*script):
    done = subprocess.run([sys.executable, *script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z-]+", done.stdout))


def test_cells_named_in_the_docs_are_in_the_default_study():
    study = Study(read_mapping(str(ROOT / "config.yaml")), "config.yaml")
    for page in PAGES:
        for words in commands(page):
            for word in words:
                cell = re.fullmatch(r"results/default/(\w+)/seed(\d+)/(\w+)/scores\.json", word)
                if cell and page.name != "adding-a-method.md":
                    assert cell[1] in study.attacks and cell[3] in study.defenses and int(cell[2]) in study.file.seeds


@PAGE
def test_studies_are_valid(page):
    """A whole study stands alone; a part of one is put into the default study."""
    default = {**read_mapping(str(ROOT / "config.yaml")), "track": None}
    validator = jsonschema.Draft202012Validator(study_schema())
    for text in blocks(page, "yaml"):
        if page.name == "adding-a-method.md":
            continue  # its entries name the methods of the examples, which have tests of their own
        values = yaml.safe_load(text)
        whole = values if "study" in values else {**default, **values}
        Study(whole, page.name)
        used = {**values, "poisoning": {}} if "study" in values else {**default, **values}
        assert [error.message for error in validator.iter_errors(as_numbers(used))] == []
        for name in values.get("datasets", {}):
            Study({**default, "pools": {**default["pools"], **pool(name)}, **parts(values)}, page.name)


def as_numbers(value):
    """PyYAML reads 1e-5 as text."""
    if isinstance(value, dict):
        return {key: as_numbers(item) for key, item in value.items()}
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?e-?\d+", value) else value


def pool(dataset):
    """Return a pool that makes a study look at a dataset's definition."""
    return {"inversion": {"dataset": dataset, "split": "train", "pairs": 1}}


def parts(values):
    return {"datasets": values["datasets"]}


@PAGE
def test_no_word_about_machines(page):
    assert not re.search(r"(^|[\s`(\"'])/(work|root|home|tmp|Users)/|pypi|conda\.anaconda|localhost", page.read_text())


def test_readme_lists_every_method():
    script = load(ROOT / "scripts" / "readme.py", "readme_script")
    text = (ROOT / "README.md").read_text()
    assert script.filled(text, "methods", script.methods()) == text, "run scripts/readme.py"
    assert "Snakemake workflow" in text


TABLE = """attack,defense,score,ca1_mean,ca1_std,ca1_n,ca1_low,ca1_high,score_mean,score_std,score_n,score_low,score_high,\
floor_mean,gate,gate_reason,best,reconstruction,note,sweep,setting,picked,worst_mean,access,within
clean,none,asr1,0.9,,1,,,,,0,,,,,,,,,,,,,,
patch,none,asr1,0.88,,1,,,0.97,,1,,,0.01,passed,all is well,,,,,,,,,yes
patch,par,asr1,0.86,,1,,,0.123,,1,,,0.01,passed,all is well,yes,,,,,,,,yes
noise,none,asr1,0.87,,1,,,0.5,,1,,,0.02,failed,too weak,,,,,,,,,yes
noise,par,asr1,,,0,,,,,0,,,0.02,failed,too weak,,,not run,,,,,,
"""


def test_readme_shows_the_figures_of_a_study(tmp_path, monkeypatch):
    script = load(ROOT / "scripts" / "readme.py", "readme_script")
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "costs.csv").write_text("stage,seconds,peak_memory_bytes\ndefend,100.5,1073741824\nevaluate,99.5,\n")
    text = script.results(tmp_path)
    assert "| defense | patch | noise † |" in text
    assert "| floor / clean model | 1.0 / 90.0 | 2.0 / 90.0 |" in text
    assert "| par | **12.3** / 86.0 |  |" in text and "† not taken: noise: too weak" in text
    assert "3 min 20 s" in text and "1.0 GiB" in text
    readme = tmp_path / "README.md"
    readme.write_text(
        "<!-- methods:start -->\n<!-- methods:end -->\n<!-- results:start -->\nOLD\n<!-- results:end -->\n"
    )
    monkeypatch.setattr(script, "ROOT", tmp_path)
    arguments = argparse.Namespace(summary=Path(), figures=False, check=True, triggers=None)
    with pytest.raises(UserError, match="out of date"):
        script.run(arguments)
    script.run(argparse.Namespace(summary=Path(), figures=False, check=False, triggers=None))
    assert text in readme.read_text() and "OLD" not in readme.read_text()
    script.run(arguments)
    with pytest.raises(UserError, match="make demo"):
        script.results(tmp_path / "nowhere")


def test_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_dvc_reads_the_project():
    from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA

    text = (ROOT / "dvc.yaml").read_text()
    COMPILED_MULTI_STAGE_SCHEMA(yaml.safe_load(text))
    for name in re.findall(r"results/default/summary/([\w.]+)", text):
        assert name in SUMMARY.values()
    assert "analytics = false" in (ROOT / ".dvc" / "config").read_text()


# The examples of docs/adding-a-method.md

EXAMPLES = ROOT / "docs" / "adding-a-method.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Return a function that puts one of the page's methods into the registry, as the page says to."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(kind, name):
        code = next(text for text in blocks(EXAMPLES, "python") if f'= "{name}"' in text)
        line = next(text for text in blocks(EXAMPLES, "python") if text.lstrip().startswith(f'"{name}": '))
        key, place = re.fullmatch(r'\s*"(\w+)": "antidote\.\w+\.\w+:(\w+)",\s*', line).groups()
        (tmp_path / f"example_{name}.py").write_text(code)
        monkeypatch.setitem(registry.KINDS[kind], key, f"example_{name}:{place}")
        study = {**read_mapping(str(ROOT / "config.yaml")), "track": None}
        entry = next(e for text in blocks(EXAMPLES, "yaml") if (e := yaml.safe_load(text).get(f"{kind}s")))
        study[f"{kind}s"] = study.get(f"{kind}s", {}) | entry
        assert jsonschema.Draft202012Validator(study_schema()).is_valid(study)
        assert f"### {name}\n" in settings_page() and f"### {name}\n" in methods_page()
        return Study(study, "study")

    yield add
    for name in [name for name in sys.modules if name.startswith("example_")]:
        del sys.modules[name]
    registry._found.cache_clear()  # it keeps the classes of these modules


def test_example_attack(example):
    import torch

    from antidote.attacks.base import Attack
    from antidote.attacks.trigger import Trigger

    study = example("attack", "bar")
    settings = study.attacks["bar"]
    assert (settings.width, settings.grey, settings.edge) == (3, 1.0, "random")
    attack: Attack = registry.method("attack", "bar")(settings, "banana", 32)
    images = torch.rand(8, 3, 32, 32)
    done = attack.apply(images, range(8))
    assert done.shape == images.shape and done.min() >= 0 and done.max() <= 1 and not torch.equal(done, images)
    assert torch.equal(done, torch.cat([attack.apply(images[i : i + 1], [i]) for i in range(8)]))
    top = (done[:, :, :3] == 1).flatten(1).all(dim=1)
    assert 0 < top.sum() < 8 and torch.equal(~top, (done[:, :, -3:] == 1).flatten(1).all(dim=1))
    drawn = Trigger(attack, 0).draw(images.mul(255).to(torch.uint8), [str(i) for i in range(8)], "test")
    assert drawn.dtype == torch.uint8 and drawn.shape == images.shape
    with pytest.raises(ValueError, match="width: 3 is more"):
        settings.check(2)


def test_example_defense(example, make_clip, make_pairs, tmp_path):
    import torch

    from antidote.data.access import DefenseData
    from antidote.training.session import Work

    study = example("defense", "picture_tower")
    settings = study.defenses["picture_tower"]
    recipe = settings.training.model_copy(update={"epochs": 1, "batch_size": 8, "warmup": 0, "lr": 0.01})
    clip = make_clip()
    before = {name: value.clone() for name, value in clip.network.named_parameters()}
    kind = registry.method("defense", "picture_tower")
    assert kind.access == "clean-pairs"
    defense = kind(settings.model_copy(update={"training": recipe}), 0)
    report = defense.run(clip, DefenseData(pairs=make_pairs(16)), Work(tmp_path / "work", "a run"))
    changed = {name for name, value in clip.network.named_parameters() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("visual.") for name in changed)
    assert report.steps == 2 and 0 < report.trained_parameters < sum(value.numel() for value in before.values())


@pytest.mark.parametrize(("kind", "name"), [("attack", "bar"), ("defense", "picture_tower")])
def test_examples_are_taken_wherever_a_study_is_read(example, kind, name, tmp_path):
    """What is asked of every method: registry, study, schema (in `example`), and what the study will take."""
    study = example(kind, name)
    found = registry.method(kind, name)
    base = {"attack": (Attack, AttackSettings), "defense": (Defense, DefenseSettings)}[kind]
    assert issubclass(found, base[0]) and issubclass(found.Settings, base[1]) and found.__doc__
    assert found.Settings.model_fields["method"].default == name
    assert found.Settings.__module__ == found.__module__ == registry.module(kind, name)
    entries = study.attacks if kind == "attack" else study.defenses
    assert entries[name].method == name and any(name in cell for cell in study.cells)
    plain = Study(read_mapping(str(ROOT / "config.yaml")), "config.yaml")
    stages, before = ({stage.name: stage for stage in preflight.stages(which, tmp_path)} for which in (study, plain))
    if kind == "defense":
        further = stages["defended models"].trained - before["defended models"].trained
        assert further == len(study.attacks) * 10 * 1000, "ten epochs over the defense pool, for each attack"
    else:
        assert len(stages["triggers"].outputs) == len(before["triggers"].outputs) + 1
        assert stages["triggers"].trained == before["triggers"].trained, "nothing is fitted"
    assert preflight.disk(study, [*stages.values()], size=32, parameters=10)["models"] > 0


def test_example_detector(example, make_clip, make_pairs):
    import torch

    from antidote.data.access import DefenseData
    from antidote.evaluation.detection import figures

    study = example("detector", "feature_norm")
    settings = study.detectors["feature_norm"]
    assert list(study.detectors) == ["feature_norm", "random_pairs", "oracle_pairs"]
    clip, pairs = make_clip(), make_pairs(50)
    found = registry.method("detector", "feature_norm")(settings, 0).score(clip, DefenseData(training_set=pairs), None)
    assert list(found.items) == pairs.keys and (found.values > 0).all()
    assert (found.values >= found.threshold).sum() == 1, "2 % of 50"
    with torch.no_grad():
        norms = clip.network.encode_image(clip.normalise(pairs.images)).float().norm(dim=1)
    torch.testing.assert_close(torch.from_numpy(found.values).float(), norms)
    longest = pairs.keys[int(found.values.argmax())]
    assert figures(found, {longest})["auroc"] == 1 and figures(found, {longest})["precision"] == 1
