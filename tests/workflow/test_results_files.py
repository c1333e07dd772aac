"""A results file from a finished study: the cell, computed anew from the backdoored model, gives the same file."""

from __future__ import annotations

import json
import shutil

import jsonschema
import yaml
from harness import ROOT, script, snakemake, study


def test_a_recomputed_cell_gives_the_same_file(project, quick_jobs):
    tracks = project / "data/tracks.yaml"
    values = yaml.safe_load(tracks.read_text())
    values["open"]["fixes"] = {}  # the small study is none of the track
    tracks.write_text(yaml.safe_dump(values))
    (project / "track.yaml").write_text(study(project, {"track": {"name": "open", "version": 1}}))

    def written(folder):
        done = script(project, "results", "write", "track.yaml", "--output", project / folder)
        assert done.returncode == 0, done.stdout
        return json.loads((project / folder / "open-1/tiny/badnet--finetune.json").read_text())

    first = written("first")
    jsonschema.validate(first, json.loads((ROOT / "leaderboard/schema.json").read_text()))
    shutil.rmtree(project / "results/tiny/badnet/seed0/finetune")
    # By name: Snakemake does not miss an intermediate file of a finished summary.
    done = snakemake(project, "--cores", "2", "results/tiny/badnet/seed0/finetune/scores.json", jobs=quick_jobs)
    assert done.returncode == 0, done.stdout
    again = written("again")
    for result in (first, again):
        assert result.pop("costs")["pairs"] == 160
    assert again == first
