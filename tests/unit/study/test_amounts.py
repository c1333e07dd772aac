"""The work of a study's jobs: what the settings of a sweep have in common counts once."""

from antidote.base.settings import read_mapping
from antidote.study import amounts
from antidote.study.study import Study

TRAINING = {"epochs": 1, "batch_size": 64, "lr": 1e-4, "warmup": 0}


def defended(rates, **more):
    """Return the work of the defended models, with UBT at some rates."""
    ubt = {"method": "ubt", "normal_pairs": 3000, "training": {**TRAINING, "lr": rates}, **more}
    return amounts.amounts(Study({**read_mapping("config.yaml"), "defenses": {"ubt": ubt}}, "x.yaml"))["defend"]


def test_a_sweep_of_the_forgetting_counts_its_search_once():
    one, three = defended(1e-4), defended([1e-4, 2e-4, 3e-4])
    forgetting = 3000 * (1 + 64 / 64)  # and two attacks, one seed
    assert three["trained"] - one["trained"] == 2 * 2 * forgetting
    assert three["encoded"] - one["encoded"] == 2 * 2 * 3000


def test_a_sweep_of_the_search_counts_each():
    one, two = defended(1e-4, words=3), defended(1e-4, words=[2, 3])
    assert two == {name: 2 * value for name, value in one.items()}
