"""The commands of `antidote` as functions; docs/python.md shows each. Importing this module does not import torch.

    from antidote import api

    clip = api.load("suspicious/")
    api.audit(clip, api.Given(pairs="clean.csv")).verdict

Errors that a user can mend are `UserError`s of one line, which name the options of the command line.
"""

from antidote.base.errors import UserError
from antidote.command.audit import Audit, audit
from antidote.command.clean import Cleaned, clean
from antidote.command.evaluate import evaluate
from antidote.command.given import Given
from antidote.command.inputs import Checkpoint, Columns, load
from antidote.command.inspect import Inspection, inspect
from antidote.command.scan import Scan, scan

__all__ = [
    "Audit",
    "Checkpoint",
    "Cleaned",
    "Columns",
    "Given",
    "Inspection",
    "Scan",
    "UserError",
    "audit",
    "clean",
    "evaluate",
    "inspect",
    "load",
    "scan",
]
