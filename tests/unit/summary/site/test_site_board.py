"""The leaderboard of the site: its figures are those of the results files, its filters have the values of the cells."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from html.parser import HTMLParser

import pytest

from antidote.base.errors import UserError
from antidote.base.fingerprint import ROOT
from antidote.summary.exchange import safe
from antidote.summary.site.board import read_boards
from antidote.summary.site.tables import curves, detections, table

KEPT = ROOT / "leaderboard"


class Rows(HTMLParser):
    """The rows of a table: their attributes, and the text of their cells; the values of each filter."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.choices, self.links, self._in, self._select = [], {}, [], None, None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "tr" and "data-attack" in given:
            self.rows.append((given, []))
        elif tag in ("td", "th") and self.rows:
            self.rows[-1][1].append("")
            self._in = True
        elif tag == "option":
            self._listed = "value" not in given  # the option of all has an empty one
        elif tag == "select":
            self._select = self.choices.setdefault(given["name"], [])
        elif tag == "a":
            self.links.append(given["href"])

    def handle_endtag(self, tag):
        self._in = None if tag in ("td", "th") else self._in

    def handle_data(self, data):
        if self._in:
            self.rows[-1][1][-1] += data
        elif self._select is not None and self.lasttag == "option" and self._listed and data.strip():
            self._select.append(data)
            self._listed = False


def result(**changes):
    values = json.loads((KEPT / "tiny-1/default/badnet--cleanclip.json").read_text())
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = values
        for part in parts:
            place = place[part]
        place[last] = value
    return values


def put(folder, **changes):
    """Write a results file to its place; return the path."""
    values = result(**changes)
    track, cell = values["track"], safe(f"{values['attack']['name']}--{values['defense']['name']}.json")
    path = folder / f"{track['name']}-{track['version']}" / safe(values["source"]["title"]) / cell
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def board(folder, name="tiny"):
    return next(one for one in read_boards(folder) if one.track.name == name)


def test_every_results_file_is_a_row_with_the_files_figures():
    files = {path.relative_to(KEPT).as_posix(): json.loads(path.read_text()) for path in KEPT.glob("*/*/*.json")}
    boards = read_boards(KEPT)
    assert sum(len(one.rows) for one in boards) == len(files)
    for one in boards:
        html = Rows(table(one.measured, f"leaderboard/{one.page}.html", "cells")) if one.measured else None
        for row, (given, cells) in zip(one.measured, html.rows if html else [], strict=True):
            own = files[row.file]
            assert (given["data-attack"], given["data-access"]) == (own["attack"]["label"], own["defense"]["access"])
            assert float(given["data-seeds"]) == len(own["figures"]["ca1"]["seeds"])
            for name in ("asr1", "ca1", "pa", "floor"):
                if name not in own["figures"]:  # of an attack that another figure scores
                    assert given.get(f"data-{name}", "") == ""
                    continue
                assert float(given[f"data-{name}"]) == pytest.approx(100 * own["figures"][name]["mean"], abs=1e-5)
                assert f"{100 * own['figures'][name]['mean']:.1f}" in [cell.partition(" ")[0] for cell in cells]
            assert bool(given["data-reason"]) == bool(row.unreliable)


def test_tracks_without_results_have_a_board():
    assert [one.track.name for one in read_boards(KEPT)][:3] == ["tiny", "tiny-start", "open"]
    assert board(KEPT, "paper").rows == []


RECIPE = {"start": "model", "epochs": 8, "accumulate": 1}


@pytest.mark.parametrize(
    ("poisoning", "start", "loss"),
    [
        (RECIPE, {}, 0.05),  # an older file has no recipe
        ({}, RECIPE, 0.05),
        ({**RECIPE, "flip": 0.0}, RECIPE, 0.05),
        ({**RECIPE, "accumulate": 4}, RECIPE, 0.05),
        ({**RECIPE, "epochs": 12}, RECIPE, None),
    ],
)
def test_the_loss_is_against_the_undefended_cell_of_the_same_poisoning(tmp_path, poisoning, start, loss):
    put(tmp_path, defense__method="none", defense__name="none", figures__ca1={"mean": 0.9}, poisoning=start)
    put(tmp_path, figures__ca1={"mean": 0.85}, poisoning=poisoning)
    [found] = [row.loss for row in board(tmp_path).rows if row.result.defense.name != "none"]
    assert found == (loss if loss is None else pytest.approx(loss))


@pytest.mark.parametrize(("size", "loss"), [(6, 0.05), (4, None)])
def test_the_loss_is_against_the_undefended_cell_of_the_same_settings_of_the_attack(tmp_path, size, loss):
    settings = {"patch_size": size, "later_setting": 1}
    put(tmp_path, defense__method="none", defense__name="none", figures__ca1={"mean": 0.9}, attack__settings=settings)
    put(tmp_path, figures__ca1={"mean": 0.85}, attack__settings={"patch_size": 6})
    [found] = [row.loss for row in board(tmp_path).rows if row.result.defense.name != "none"]
    assert found == (loss if loss is None else pytest.approx(loss))


def test_the_loss_is_against_the_undefended_cell_of_the_same_study_and_attack(tmp_path):
    put(tmp_path, source__title="a", defense__method="none", defense__name="none", figures__ca1={"mean": 0.9})
    put(tmp_path, source__title="a", figures__ca1={"mean": 0.85})
    put(tmp_path, source__title="b")
    put(tmp_path, source__title="a", attack__name="blended", attack__method="blended")
    losses = {row.file: row.loss for row in board(tmp_path).rows}
    assert losses["tiny-1/a/badnet--cleanclip.json"] == pytest.approx(0.05)
    assert losses["tiny-1/a/badnet--none.json"] == 0
    assert losses["tiny-1/b/badnet--cleanclip.json"] is None, "another study"
    assert losses["tiny-1/a/blended--cleanclip.json"] is None, "another attack"
    assert sorted(given["data-loss"] == "" for given, _ in Rows(html(tmp_path)).rows) == [False, False, True, True]


def test_an_undefended_cell_of_another_poisoning_is_another_cell(tmp_path):
    put(tmp_path, defense__name="none", defense__method="none", poisoning={"start": "model"})
    put(tmp_path, poisoning={"start": "clean"})
    assert {row.result.defense.name: row.loss for row in board(tmp_path).rows} == {"none": 0, "cleanclip": None}


@pytest.mark.parametrize(("seeds", "loss"), [({"2": 0.7}, 0.1), ({"1": 0.6, "2": 0.7}, 0.2), ({"7": 0.6}, None)])
def test_the_loss_is_over_the_seeds_that_both_cells_have(tmp_path, seeds, loss):
    """The undefended model of seed 2 is the worst: against the mean of all seeds, the loss would be larger."""

    def figure(by_seed):
        values = list(by_seed.values())
        std = statistics.stdev(values) if len(values) > 1 else None
        return {"mean": statistics.fmean(values), "std": std, "seeds": by_seed}

    undefended = figure({"0": 1.0, "1": 0.9, "2": 0.8})
    names = {"defense__method": "none", "defense__name": "none"}
    put(tmp_path, **names, figures__ca1=undefended)
    put(tmp_path, figures__ca1=figure(seeds))
    found = {row.result.defense.name: row.loss for row in board(tmp_path).rows}
    assert found["none"] == 0 and found["cleanclip"] == (pytest.approx(loss) if loss else None)


def html(folder, **words):
    return table(board(folder).rows, "leaderboard/tiny-1.html", "cells", **words)


def test_seeds_are_shown_as_mean_and_spread(tmp_path):
    figure = {"mean": 0.3, "std": 0.14142, "seeds": {"0": 0.4, "1": 0.2}}
    put(tmp_path, figures__asr1=figure)
    ((given, cells),) = Rows(html(tmp_path)).rows
    assert given["data-seeds"] == "2" and "30.0 ± 14.1" in cells and float(given["data-asr1"]) == pytest.approx(30)


def test_detectors_of_the_cells_are_a_table(tmp_path):
    figure = lambda mean: {"mean": mean, "std": 0.2 / 2**0.5, "seeds": {"0": mean - 0.1, "1": mean + 0.1}}
    entry = lambda name, access: {"name": name, "method": name, "access": access}
    found = [
        {"detector": entry("dao", "poisoned-training-set"), "subject": "pairs", "adaptive": True,
         "figures": {"auroc": figure(0.8)}},
        {"detector": entry("oracle", "oracle"), "subject": "pairs", "figures": {"auroc": figure(0.9)}},
    ]  # fmt: skip
    put(tmp_path, detections=found)
    html = detections(board(tmp_path).measured, "leaderboard/tiny-1.html")
    (dao, cells), (_, control) = Rows(html).rows
    assert dao["data-auroc"] == "80.0" and "data-tpr-at-fpr1" in dao and "../methods/detectors/dao.html" in html
    assert [cells[0], cells[3], cells[4], cells[5]] == ["dao", "pairs", "80.0 ± 14.1 §", ""]
    assert control[0] == "oracle control"


def test_reported_results_are_apart(tmp_path):
    put(tmp_path)
    figures = {"asr1": {"mean": 0.5}}
    put(tmp_path, status="reported", hashes=None, source__title="b", source__url="https://x.org", figures=figures)
    one = board(tmp_path)
    assert [row.file for row in one.measured] == ["tiny-1/default/badnet--cleanclip.json"]
    assert [row.file for row in one.reported] == ["tiny-1/b/badnet--cleanclip.json"]
    reported = Rows(table(one.reported, "leaderboard/tiny-1.html", "cells"))
    ((given, _),) = reported.rows
    assert given["data-status"] == "reported" and given["data-seeds"] == "" and given["data-ca1"] == ""
    assert {"tiny-1/b/badnet--cleanclip.json", "https://x.org"} <= set(reported.links)


def test_filters_have_the_values_of_the_cells(tmp_path):
    shutil.copytree(KEPT, tmp_path, dirs_exist_ok=True)
    found, own = Rows(html(tmp_path)), [row.result for row in board(tmp_path).rows]
    assert set(found.choices["access"]) == {one.defense.access for one in own}
    assert set(found.choices["exactness"]) == {"exact", "reconstruction"}
    assert set(found.choices["source"]) == {one.source.title for one in own}
    assert set(found.choices["model"]) == {one.model for one in own}
    for name in ("attack", "defense", "access", "exactness", "source"):
        assert {given[f"data-{name}"] for given, _ in found.rows} == set(found.choices[name])
    exact = {given["data-defense"] for given, _ in found.rows if given["data-exactness"] == "exact"}
    assert "CleanCLIP" in exact and "TA-Cleaner" not in exact


def test_a_filter_with_one_value_is_none(tmp_path):
    shutil.copytree(KEPT, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*.json"):
        if path.name != "schema.json" and json.loads(path.read_text())["model"] != "tiny-rn":
            path.unlink()
    assert "model" not in Rows(html(tmp_path)).choices


def test_what_a_file_says_is_escaped(tmp_path):
    evil = "</script><script>alert(1)</script>"
    point = [{"step": 0, "ca1": 0.9, "score": 1.0}]
    curve = {"adaptation": evil, "kind": "full", "pool": "defense", "model": "backdoored", "seeds": 1, "points": point}
    changes = {"attack__label": evil, "unreliable": evil, "source__title": evil, "source__url": "javascript:alert(1)"}
    put(tmp_path, persistence=[curve], **changes)
    assert "<script" not in html(tmp_path) and "javascript:" not in html(tmp_path)
    found = curves(board(tmp_path).rows)
    assert "<" not in found and json.loads(found)[0]["adaptation"] == evil
    assert json.loads(found)[0]["points"] == [[0, 100.0, 90.0]]
    assert curves(board(KEPT, "paper").rows) == ""


def test_a_table_is_one_block_for_markdown():
    text = table(board(KEPT).rows, "leaderboard/tiny-1.html", "cells")
    assert "\n\n" not in text and text.startswith("<div") and text.endswith("</div>")
    assert len(re.findall(r"<div\b", text)) == text.count("</div>")


def test_the_column_of_the_page_itself_gives_way_to_the_names_of_the_entries(tmp_path):
    put(tmp_path, defense__name="cleanclip_lr0.001")
    ((given, cells),) = Rows(html(tmp_path, filters=False, without=("defense",))).rows
    assert cells[:2] == ["BadNet", "cleanclip_lr0.001"] and given["data-entry"] == "cleanclip_lr0.001"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"track__name": "opne"}, "badnet--cleanclip.json: track.name: unknown track 'opne'; known: tiny, "),
        ({"format": 3}, "badnet--cleanclip.json: format: "),
    ],
)
def test_a_file_that_is_not_valid_is_one_line(tmp_path, change, says):
    put(tmp_path, **change)
    with pytest.raises(UserError) as error:
        read_boards(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such folder"):
        read_boards(tmp_path / "nowhere")


CELL = "tiny-1/default/badnet--cleanclip.json"


@pytest.mark.parametrize(
    ("name", "changes", "mend"),
    [
        ("tiny-1/default/copy.json", {}, "remove one of the two"),
        ("tiny-1/default.json", {}, "remove one of the two"),
        ("tiny-1/default/more/badnet--cleanclip.json", {}, "remove one of the two"),
        ("tiny-1/default/badnet--other.json", {"track__name": "open"}, "move it there"),
        ("tiny-1/other/badnet--cleanclip.json", {"source__title": "another"}, "move it there"),
    ],
    ids=["a copy", "beside the folders", "below a folder", "another track", "another study"],
)
def test_a_file_out_of_its_place_is_told(tmp_path, name, changes, mend):
    cell = put(tmp_path)
    place = CELL.replace("tiny-1", "open-1") if "track__name" in changes else CELL
    place = place.replace("default", changes.get("source__title", "default"))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(json.dumps(result(**changes)))
    assert cell == tmp_path / CELL
    with pytest.raises(UserError, match=f"{name}: holds the cell of {tmp_path / place}; {mend}"):
        read_boards(tmp_path)


def test_an_earlier_version_has_a_board_of_its_own(tmp_path):
    put(tmp_path, track__version=7)
    first = read_boards(tmp_path)[0]
    assert first.page == "tiny-7" and first.recipe is None and len(first.rows) == 1
