"""Print the table of a study, and the paths of its report and plots."""

from antidote.base import command_line
from antidote.command.show import arguments, run

if __name__ == "__main__":
    command_line.main(run, arguments())
