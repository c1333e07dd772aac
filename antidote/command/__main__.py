"""Entry point of the command line: `antidote COMMAND ...`. The help of a command shows an example."""

from __future__ import annotations

import errno
import importlib
import runpy
import signal
import sys

# The project's own modules are imported in `main`: a Ctrl-C meanwhile, seconds on a busy machine, ends in one line too.


def main() -> None:
    """Run one command; without a command, or with --help, show the list of commands.

    What the user stops, and names that the file system does not take or that are not UTF-8, end in one line.
    """
    try:
        _run()
    except KeyboardInterrupt:
        sys.stderr.write("\nerror: interrupted; the same command again goes on where work was saved\n")
        sys.exit(128 + signal.SIGINT)
    except UnicodeEncodeError as error:
        if not "\ud800" <= error.object[error.start] <= "\udfff":
            raise
        word = next(word for word in error.object.split() if error.object[error.start] in word)
        sys.exit(f"error: {word.strip(':;,')}: is not valid UTF-8; give it another name")
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
            raise
        sys.exit(f"error: {error.filename or 'a path'}: {error.strerror}; name another path")


def _run() -> None:
    from antidote.base.errors import nearest
    from antidote.command.table import COMMANDS, overview

    name, rest = (sys.argv[1] if sys.argv[1:] else "--help"), sys.argv[2:]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return
    if name not in COMMANDS:
        sys.exit(f"error: unknown command {name!r}{nearest(name, COMMANDS)}")
    sys.argv = [f"antidote {name}", *rest]
    if COMMANDS[name].script:
        _of_checkout(name, rest, COMMANDS[name].example)
        return
    from antidote.base import command_line

    module = importlib.import_module(f"{__package__}.{name}")
    parser = module.arguments()
    parser.epilog = f"example:\n  {COMMANDS[name].example}"
    command_line.main(module.run, parser)


def _of_checkout(name: str, rest: list[str], example: str) -> None:
    """Run a script of a checkout, which needs the workflow's rules; an installed wheel holds neither."""
    from antidote.base.fingerprint import ROOT

    if not (ROOT / "scripts" / f"{name}.py").is_file():
        sys.exit(f"error: {name}: needs a checkout of the project, with its Snakefile and rules; the wheel has neither")
    sys.path.insert(0, str(ROOT))
    try:
        runpy.run_module(f"scripts.{name}", run_name="__main__")
    finally:
        if {"-h", "--help"} & set(rest):
            lines = example.splitlines()
            own = [line.strip() for line in lines if line.split()[2:3] == rest[:1]]  # of an action, as `results write`
            sys.stdout.write("\n".join(["", "example:", f"  {own[0] if own else example}", ""]))


if __name__ == "__main__":
    main()
