"""Print a script that completes commands and options of `antidote` in bash or zsh.

Add `eval "$(antidote completion bash)"` to ~/.bashrc, or `eval "$(antidote completion zsh)"` to ~/.zshrc.
"""

import argparse
import importlib
import shlex
import sys

from antidote.base import command_line
from antidote.command.table import COMMANDS

SCRIPT = """_antidote() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words={commands}
  if [ "$COMP_CWORD" -gt 1 ]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
      *) words="" ;;
    esac
  fi
  COMPREPLY=()
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    *) if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "$words" -- "$word")); fi ;;
  esac
}}
complete -o default -F _antidote antidote
"""
ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = command_line.parser(__doc__)
    parser.add_argument("shell", choices=("bash", "zsh"))
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the script to standard output."""
    cases = [
        f"      {name}) words={shlex.quote(' '.join(options(name)))} ;;"
        for name, entry in COMMANDS.items()
        if not entry.script
    ]
    script = SCRIPT.format(commands=shlex.quote(" ".join(COMMANDS)), cases="\n".join(cases))
    sys.stdout.write((ZSH if args.shell == "zsh" else "") + script)


def options(name: str) -> list[str]:
    """Return the long options of a command."""
    parser = importlib.import_module(f"antidote.command.{name}").arguments()
    return sorted(text for action in parser._actions for text in action.option_strings if text.startswith("--"))
