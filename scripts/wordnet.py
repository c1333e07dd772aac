"""Fetch WordNet's database files, once and by hash, for studies whose lexicon is `wordnet`."""

from pathlib import Path

from antidote.base import command_line
from antidote.data.words import wordnet
from antidote.data.words.lexicon import FOLDER


def run(arguments):
    wordnet.fetch(arguments.output, arguments.archive)


if __name__ == "__main__":
    parser = command_line.parser(__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for the files")
    parser.add_argument("--archive", type=Path, help="a copy of NLTK's wordnet.zip at hand, in place of the download")
    command_line.main(run, parser)
