"""The commands, in the order of the help."""

from typing import NamedTuple


class Command(NamedTuple):
    """One command.

    Attributes:
        about: one line for the list of commands.
        example: a call, or one per line, shown at the end of the command's help.
        script: whether the command is a script of a checkout.
    """

    about: str
    example: str
    script: bool = False


COMMANDS = {
    "audit": Command(
        "score a CLIP with every detector of models", "antidote audit suspicious/ --pairs clean.csv --output audit"
    ),
    "scan": Command(
        "score every pair of a dataset; list pairs to leave out",
        "antidote scan pairs.csv --model suspicious/ --detector dao --output scan",
    ),
    "inspect": Command(
        "score pictures at use",
        "antidote inspect suspicious/ pictures/ --detector scale_up --classes names.json --output inspected",
    ),
    "clean": Command(
        "run a defense on a CLIP",
        "antidote clean suspicious/ --pairs clean.csv --defense cleanclip --audit decree --output cleaned",
    ),
    "evaluate": Command(
        "zero-shot accuracy of a CLIP, and success of an attack",
        "antidote evaluate cleaned/ test/ --trigger results/default/badnet/seed0/trigger",
    ),
    "init": Command(
        "write a file for your own model and data, or a study",
        "antidote init suspicious/ --pairs clean.csv --labelled test/ --output given.yaml\n"
        "  antidote init --pairs pairs.csv --evaluation test/ --target banana --output study.yaml",
    ),
    "check": Command("check a study file without running it", "antidote check study.yaml"),
    "show": Command("print the table of a finished study", "antidote show --study default"),
    "preflight": Command("what a study will take, before it starts", "antidote preflight study.yaml", True),
    "results": Command(
        "write, check, import or export results files",
        "antidote results write study.yaml\n"
        "  antidote results check leaderboard/tiny-1/defenses/*.json\n"
        "  antidote results clip-benchmark leaderboard/tiny-1/defenses/*.json --output exported\n"
        "  antidote results import evaluation.json --track tiny --attack badnet --defense none --title 'A paper' "
        "--url https://example.org\n"
        "  antidote results compare mine/tiny-1/defenses leaderboard/tiny-1/defenses\n"
        "  antidote results noise leaderboard\n"
        "  antidote results schema",
        True,
    ),
    "zoo": Command(
        "publish models of a study by name, or list them", "antidote zoo publish study.yaml\n  antidote zoo list", True
    ),
    "collect": Command("list files that no study needs", "antidote collect --configfile study.yaml", True),
    "snapshot": Command("record a finished study with DVC", "antidote snapshot --configfile study.yaml", True),
    "completion": Command("print a completion script for bash or zsh", 'eval "$(antidote completion bash)"'),
}


def overview() -> str:
    """Return the help of `antidote` itself."""
    lines = [f"  {name:12}{entry.about}" for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            "usage: antidote COMMAND ...",
            "",
            "Measure backdoors in CLIP models, and clean them.",
            "",
            *lines,
            "",
            "antidote COMMAND --help describes a command and shows an example.",
            "",
            f"example:\n  {COMMANDS['audit'].example}",
            "",
        ]
    )
