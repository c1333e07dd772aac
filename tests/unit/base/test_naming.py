"""Names of datasets, splits and input files: what may stand in a study."""

import pytest

from antidote.base.errors import UserError
from antidote.base.naming import TAKEN, check_dataset, check_inputs
from antidote.data.store.datasets import dataset_settings

SCENES = {"source": "scenes", "splits": {"train": {"pairs": 4, "seed": 1}}}


@pytest.mark.parametrize("name", ["mine", "wds/flickr30k", "a.b-c_1/2", "v2"])
def test_names_of_datasets(name):
    check_dataset(name, ["train", "val-2017", "v1.0"])
    assert dataset_settings(name, {name: SCENES}).split_names() == ["train"]


BAD = [
    "my photos",
    "x$HOME",
    "../outside",
    "a/../b",
    "/etc",
    "a//b",
    "a/",
    "x$(touch ran)",
    "it's",
    "{x}",
    "gr\u00f6\u00dfe",
    ".x",
    "-x",
    "",
]


@pytest.mark.parametrize("name", BAD)
def test_names_that_lead_elsewhere(name):
    with pytest.raises(UserError) as error:
        dataset_settings(name, {name: SCENES})
    assert str(error.value).startswith(f"datasets: name {name!r} may hold letters of ASCII")
    with pytest.raises(UserError) as error:
        dataset_settings("mine", {"mine": {**SCENES, "splits": {name: {"pairs": 4, "seed": 1}}}})
    assert str(error.value).startswith(f"datasets.mine.splits: name {name!r} may hold letters of ASCII")


@pytest.mark.parametrize("name", [*sorted(TAKEN), "downloads/mine"])
def test_names_of_other_folders_of_data(name):
    with pytest.raises(UserError, match="is taken by the layout of data/"):
        check_dataset(name, [])


def test_a_split_has_no_parts():
    with pytest.raises(UserError, match="splits: name 'a/b' may hold"):
        check_dataset("mine", ["a/b"])


@pytest.mark.parametrize("name", [None, "tiny-rn", "weights {} $x.pt", "weights { }.pt"])
def test_names_of_files_that_jobs_wait_for(name):
    check_inputs({"model.pretrained": name})


@pytest.mark.parametrize("name", ["a {seed}.pt", "{{w}}.pt", "{ w }", "{w,[0-9]+}"])
def test_a_word_in_braces_is_a_wildcard(name):
    with pytest.raises(UserError, match=r"^model\.pretrained: .* which Snakemake takes for a wildcard"):
        check_inputs({"model.pretrained": name})
