"""What the benchmark of submissions prints: jobs by rule, their share, and what planning them costs the main process."""

import sys
from collections import Counter

from antidote.base.fingerprint import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import submissions
from measured import Cost


def test_the_line_of_a_grouping(capsys):
    submissions.report("name", Counter(defend=2, evaluate=1), 6, Cost(wall=9.0, cpu=2.5, memory=30.4, output=""))
    line = "name: 3 (defend 2, evaluate 1), 50%; planned in 2.5 s of the processor, at most 30 MB\n"
    assert capsys.readouterr().out == line
