"""Check a study file without running any job: print the matrix, or the error in one line."""

from antidote.base import command_line
from antidote.command.check import arguments, run

if __name__ == "__main__":
    command_line.main(run, arguments())
