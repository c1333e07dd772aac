"""The pages of the site: one per method, the documents with links that lead somewhere, all in the navigation once."""

from __future__ import annotations

import importlib
import json
import re
from types import SimpleNamespace

import jsonschema
import pytest
import yaml

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.base.registry import AXES, KINDS, method
from antidote.base.settings import read_mapping
from antidote.study.reference import reference
from antidote.study.schema import settings_of, study_schema
from antidote.study.tracks import Noise, tracks
from antidote.summary.noise import least
from antidote.summary.site import documents
from antidote.summary.site.board import read_boards
from antidote.summary.site.build import navigation, pages, write
from antidote.summary.site.documents import place, relinked, repository
from antidote.summary.site.methods import entries, method_anchors, uses
from scripts import site
from tests.unit.summary.site.test_site_board import Rows

METHODS = [(kind, name) for kind in AXES for name in KINDS[kind]]
KEPT = ROOT / "leaderboard"


@pytest.fixture(scope="module")
def boards():
    return read_boards(KEPT)


@pytest.fixture(scope="module")
def found(boards):
    return pages(ROOT, KEPT, boards)


def test_every_method_has_a_page_with_what_it_is(found):
    assert {path for path in found if path.startswith("methods/")} == {f"methods/{k}s/{n}.md" for k, n in METHODS}
    for kind, name in METHODS:
        text, known = found[f"methods/{kind}s/{name}.md"], method(kind, name)
        assert f"\n# {name}\n" in text and f"`antidote/{kind}s" not in text
        access = known.threat_model if kind == "attack" else {"truth": "oracle"}.get(
            getattr(known, "control", ""), known.access
        )  # fmt: skip
        assert f"| `{access}`" in text
        if kind != "attack" and name != "none" and not getattr(known, "control", ""):
            assert f"| what it is | {'reconstruction' if known.reconstruction else 'exact'} |" in text
        for key in settings_of(kind, name).model_fields:
            assert f"| `{key}` |" in text, key


def test_a_track_says_how_far_two_cells_differ_by_chance(found):
    """By the interval of their difference, not by the spread of one cell: 2.145 * sqrt(2) * 22 points on tiny-rn."""
    text = found["leaderboard/tiny-1.md"]
    floor = tracks()["tiny"].noise["tiny-rn"]
    assert f"tiny-rn asr1 {floor.figures['asr1']}, ca1 {floor.figures['ca1']} ({floor.cells} cells)" in text
    assert (
        f"up to: tiny-rn asr1 {least(floor, 'asr1'):.0f}, ca1 {least(floor, 'ca1'):.0f}; tiny-vit asr1 any difference"
        in text
    )
    chance = re.search(r"may differ by chance by up to: (.*) \(95 % interval\)", text).group(1)
    points = [float(number) for number in re.findall(r"(?:asr1|ca1) ([\d.]+)", chance)]
    assert points and max(points) < 100, "rates are from 0 to 100"
    assert least(Noise(cells=61, freedom=14, figures={"asr1": 22.0}), "asr1") == pytest.approx(66.73, abs=0.01)
    assert "up to: open-rn asr1 any difference" in found["leaderboard/open-1.md"]


def test_the_page_of_results_files_is_linked_and_has_one_level_of_sections(found):
    text = found["leaderboard/index.md"]
    heads = re.findall(r"^#+ .*$", text, re.MULTILINE)
    assert heads[:2] == ["# Leaderboard", "## Results files"] and len(heads) > 4
    assert all(head.startswith("### ") for head in heads[2:])
    assert "](leaderboard/index.md" in found["index.md"] and "](leaderboard/index.md" in found["CONTRIBUTING.md"]
    assert "](../leaderboard/index.md" in found["docs/tracks.md"]


def test_the_paper_is_named():
    assert reference("attack", "badnet").papers == (
        "Gu et al. 2017, [arXiv 1708.06733](https://arxiv.org/abs/1708.06733)",
    )
    assert reference("detector", "clip_score").papers == ("Hessel et al. 2021",)
    assert reference("defense", "finetune").papers == ()
    named = [name for kind, name in METHODS if reference(kind, name).papers]
    assert len(named) > 40


def test_figures_of_a_method_are_those_of_its_results_files(found):
    for kind in ("attack", "defense"):
        for name in KINDS[kind]:
            files = [json.loads(path.read_text()) for path in sorted(KEPT.glob("*/*/*.json"))]
            wanted = sorted(
                (one["source"]["title"], one["attack"]["name"], one["defense"]["name"],
                 one["figures"].get("asr1", {}).get("mean"))
                for one in files if one[kind]["method"] == name
            )  # fmt: skip
            text = found[f"methods/{kind}s/{name}.md"]
            rows = [given for given, _ in Rows(text).rows]
            assert sorted(float(row["data-asr1"]) for row in rows if row["data-asr1"]) == pytest.approx(
                sorted(100 * w[3] for w in wanted if w[3] is not None), abs=1e-5
            )
            assert sorted(row["data-source"] for row in rows) == sorted(w[0] for w in wanted)
            assert ("No track has a cell of it." in text) == (not wanted)


def test_figures_of_a_detector_are_those_of_its_results_files(found):
    files = [json.loads(path.read_text()) for path in sorted(KEPT.glob("*/*/*.json"))]
    for name in KINDS["detector"]:
        wanted = sorted(
            (one["detector"]["name"], file["attack"]["label"], file["source"]["title"],
             f"{round(100 * one['figures']['auroc']['mean'], 6)}" if "auroc" in one["figures"] else "")
            for file in files for one in file["detections"] if one["detector"]["method"] == name
        )  # fmt: skip
        text = found[f"methods/detectors/{name}.md"]
        rows = Rows(text).rows
        keys = ("data-entry", "data-attack", "data-source", "data-auroc")
        assert sorted(tuple(given[key] for key in keys) for given, _ in rows) == wanted
        assert all(cells[0].split()[0] == given["data-entry"] for given, cells in rows)
        assert ("No track has a cell of it." in text) == (not wanted) and "Results files hold attacks" not in text
    text = found["methods/detectors/sentinet.md"]
    assert len(Rows(text).rows) > 0 and 'data-key="access"' not in text, "what its page says above"


def test_fragments_of_studies_are_valid():
    default = {**read_mapping(str(ROOT / "config.yaml")), "track": None}
    validator = jsonschema.Draft202012Validator(study_schema())
    for kind, name in METHODS:
        text = entries(kind, name)
        if not text:
            assert name in ("none", "random", "oracle")
            continue
        values = yaml.safe_load(text)
        assert [error.message for error in validator.iter_errors({**default, **values})] == []
        presets = getattr(method(kind, name).Settings, "presets", {})
        assert len(values[f"{kind}s"]) == 1 + len(presets)


def test_studies_that_run_a_method_are_shown_with_their_entries():
    found = uses(ROOT)
    first = found["defense", "cleanclip"][0]
    assert first.path == "config.yaml"
    assert (
        yaml.safe_load(first.entries)["defenses"]["cleanclip"] == read_mapping("config.yaml")["defenses"]["cleanclip"]
    )
    assert found["attack", "badclip"][0].path == "configs/attacks.yaml"


def test_commands_have_the_options_of_antidote(found):
    for path, text in found.items():
        for line in re.findall(r"^antidote (.*)$", text, re.MULTILINE) if path.startswith("methods/") else ():
            words = line.split()
            parser = importlib.import_module(f"antidote.command.{words[0]}").arguments()
            assert {word for word in words if word.startswith("--")} <= set(
                re.findall(r"--[a-z-]+", parser.format_help())
            )


def test_commands_of_detectors_give_the_data_that_they_need(found):
    shown = [line for text in found.values() for line in re.findall(r"^antidote .*--detector (?:.*)$", text, re.M)]
    options = {"clean-pairs": "--pairs", "few-labelled": "--shots", "test-time": "--classes"}
    for line in shown:
        words = line.split()
        detector = method("detector", words[words.index("--detector") + 1])
        if words[1] == "scan":
            assert detector.access == "nothing", line
        elif detector.access in options:
            assert options[detector.access] in words or "--given" in words, line
    assert {"audit", "scan", "inspect"} <= {line.split()[1] for line in shown}


def test_every_page_is_in_the_navigation_once(found, boards):
    def leaves(entry):
        if isinstance(entry, str):
            return [entry]
        inside = entry.values() if isinstance(entry, dict) else entry
        return [leaf for part in inside for leaf in leaves(part)]

    listed = leaves(navigation(found, boards))
    assert sorted(listed) == sorted(found)
    assert listed[0] == "index.md" and {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(listed)


def test_a_document_that_no_section_names_is_in_the_navigation(found, boards):
    assert "docs/new.md" in str(navigation({**found, "docs/new.md": ""}, boards))


def test_links_between_pages_resolve(found):
    files = {*found, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.png"))}
    files |= {f"leaderboard/{path.relative_to(KEPT).as_posix()}" for path in KEPT.rglob("*.json")}
    for path, text in found.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if not re.match(r"https?://|#", target):
                there = documents.normpath(f"{documents.dirname(path)}/{target.partition('#')[0]}".lstrip("/"))
                assert there in files, (path, target)


PAGES = {"index.md", "docs/a.md", "docs/methods.md", "docs/a.png", "leaderboard/index.md", "methods/attacks/badnet.md"}
HEADS = {"badnet": "methods/attacks/badnet.md"}


@pytest.mark.parametrize(
    ("text", "written", "shown", "wanted"),
    [
        ("[a](docs/a.md#x)", "README.md", "index.md", "[a](docs/a.md#x)"),
        ("[a](../README.md)", "docs/a.md", "docs/a.md", "[a](../index.md)"),
        ("![a](a.png)", "docs/a.md", "docs/a.md", "![a](a.png)"),
        ("[b](docs/methods.md#badnet)", "README.md", "index.md", "[b](methods/attacks/badnet.md)"),
        ("[b](#badnet)", "docs/methods.md", "docs/methods.md", "[b](../methods/attacks/badnet.md)"),
        ("[b](#badnet)", "docs/a.md", "docs/a.md", "[b](#badnet)"),
        ("[b](#attacks)", "docs/methods.md", "docs/methods.md", "[b](#attacks)"),
        ("[a](a.md)", "docs/methods.md", "methods/attacks/badnet.md", "[a](../../docs/a.md)"),
        ("[t](../leaderboard/README.md)", "docs/a.md", "docs/a.md", "[t](../leaderboard/index.md)"),
        ("[x.py](../antidote/x.py)", "docs/a.md", "docs/a.md", "x.py"),
        ("[`x`, *y*](../x.py), [a](a.md)", "docs/a.md", "docs/a.md", "`x`, *y*, [a](a.md)"),
        ("[p](https://arxiv.org/abs/1)", "docs/a.md", "docs/a.md", "[p](https://arxiv.org/abs/1)"),
        ("```text\n[x.py](../x.py)\n```", "docs/a.md", "docs/a.md", "```text\n[x.py](../x.py)\n```"),
        ("<!-- t:start -->\n| a |", "docs/a.md", "docs/a.md", "\n| a |"),
    ],
)  # fmt: skip
def test_links_of_the_checkout_lead_to_pages_of_the_site(text, written, shown, wanted):
    assert relinked(text, written, shown, PAGES, HEADS).rstrip("\n") == wanted


def test_links_to_files_lead_to_the_repository_if_its_address_is_known(tmp_path):
    address = "https://example.org/antidote"
    assert (
        relinked("[x](../x.py#L1)", "docs/a.md", "docs/a.md", PAGES, {}, address)
        == f"[x]({address}/blob/main/x.py#L1)\n"
    )
    (tmp_path / "CITATION.cff").write_text(f"repository-code: {address}.git\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert repository(tmp_path) == address
    (tmp_path / "pyproject.toml").write_text("[project.urls]\nRepository = 'https://example.org/other/'\n")
    assert repository(tmp_path) == "https://example.org/other"
    (tmp_path / "CITATION.cff").write_text("title: x\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert repository(tmp_path) == ""


def test_headings_of_methods_lead_to_their_pages():
    assert method_anchors()["ubt-detector"] == "methods/detectors/ubt.md" and place("README.md") == "index.md"
    assert method_anchors()["ubt"] == "methods/defenses/ubt.md" and len(method_anchors()) == len(METHODS)


def test_the_tree_has_what_mkdocs_needs(tmp_path):
    write(ROOT, KEPT, tmp_path)
    text = (tmp_path / "mkdocs.yml").read_text()
    assert "font: false" in text and "https://" not in text, "nothing is fetched"
    named = re.findall(r"assets/[\w.-]+", text)
    assert named and all((tmp_path / "docs" / name).is_file() for name in named)
    assert (tmp_path / "docs/docs/attacks.png").is_file() and (tmp_path / "docs/leaderboard/schema.json").is_file()
    kept = {path.relative_to(KEPT) for path in KEPT.rglob("*.json")}
    assert kept == {
        path.relative_to(tmp_path / "docs/leaderboard") for path in (tmp_path / "docs/leaderboard").rglob("*.json")
    }


def test_a_folder_of_something_else_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    arguments = SimpleNamespace(leaderboard=KEPT, output=tmp_path)
    monkeypatch.setattr(site, "MKDOCS", tmp_path / "mine.txt")
    with pytest.raises(UserError, match=r"--output: .* holds something else"):
        site.run(arguments)
    monkeypatch.setattr(site, "MKDOCS", tmp_path / "nothing")
    with pytest.raises(UserError, match="run `make site`"):
        site.run(arguments)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_fault_of_mkdocs_is_one_line(tmp_path, monkeypatch):
    program = tmp_path / "mkdocs"
    program.write_text(
        "#!/bin/sh\necho 'WARNING - a link leads nowhere' >&2\necho 'Aborted'; echo 'INFO - done' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(site, "MKDOCS", program)
    with pytest.raises(UserError, match=r"^mkdocs: WARNING - a link leads nowhere$"):
        site.build(tmp_path)
