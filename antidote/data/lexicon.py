"""Synonyms and word classes for methods that change captions: from a file in `data/lexicons`, or from WordNet."""

import warnings
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from antidote.data.names import DATA
from antidote.errors import UserError, nearest
from antidote.files import read_json

WORDNET = "wordnet:"
WORD_CLASSES = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


def wordnet_files(name: str) -> list[Path]:
    """Return the files of a WordNet folder, where the name of a lexicon is one."""
    return sorted(Path(name.removeprefix(WORDNET)).glob("*")) if name.startswith(WORDNET) else []


class Lexicon:
    """Words with their class (noun, verb, adjective, adverb, preposition, ...) and their synonyms; case is ignored."""

    def __init__(self, words: Mapping[str, Mapping[str, Any]]) -> None:
        """`words`: {word: {"pos": class, "synonyms": [word, ...]}}."""
        self._words = {word.lower(): entry for word, entry in words.items()}

    def synonyms(self, word: str) -> list[str]:
        """Return words that may stand in the place of `word`; [] for an unknown word."""
        entry = self._words.get(word.lower())
        return list(entry["synonyms"]) if entry else []

    def word_class(self, word: str) -> str | None:
        """Return the class of `word`, or None for an unknown word."""
        entry = self._words.get(word.lower())
        return entry["pos"] if entry else None

    def words(self, word_class: str) -> list[str]:
        """Return the words of a class, sorted."""
        return sorted(word for word, entry in self._words.items() if entry["pos"] == word_class)


class WordNet(Lexicon):
    """Princeton WordNet's database files. Inflected words count as their base form, which their synonyms have too."""

    def __init__(self, folder: str | Path) -> None:
        """Raise UserError where the folder lacks database files."""
        import nltk.data
        from nltk.corpus.reader import WordNetCorpusReader

        folder = str(Path(folder).resolve())
        there = {path.name for path in Path(folder).glob("*")}
        missing = sorted(set(WordNetCorpusReader._FILES) - there - {"index.sense"})  # which only other versions need
        if missing:
            raise UserError(f"lexicon: {folder}: holds no WordNet database, {missing[0]} is missing")
        if folder not in nltk.data.path:
            nltk.data.path.append(folder)  # nltk reads only below the folders listed there
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other languages are not there
            # nltk would map to its own copy of WordNet, for other languages; the copy need not be there.
            reader = type("Reader", (WordNetCorpusReader,), {"map_wn": lambda self, version="wordnet": None})
            self._reader = reader(folder, None)

    def synonyms(self, word: str) -> list[str]:
        """Return the other words of all senses in the word's most frequent class, commonest sense first."""
        kind = self._kind(word)
        if kind is None:
            return []
        names = (name for sense in self._reader.synsets(_lemma(word), kind) for name in sense.lemma_names())
        base = self._reader.morphy(_lemma(word), kind)
        found = dict.fromkeys(name.replace("_", " ") for name in names)
        return [name for name in found if name.lower() not in (word.lower(), base.replace("_", " "))]

    def word_class(self, word: str) -> str | None:
        kind = self._kind(word)
        return None if kind is None else WORD_CLASSES[kind]

    def words(self, word_class: str) -> list[str]:
        kinds = [kind for kind, name in WORD_CLASSES.items() if name == word_class and kind != "s"]
        return sorted({name.replace("_", " ") for kind in kinds for name in self._reader.all_lemma_names(kind)})

    def _kind(self, word: str) -> str | None:
        """Return the word's most frequent class: by WordNet's counts, then by the number of senses."""
        weights: Counter[str] = Counter()
        for kind in "nvar":
            base = self._reader.morphy(_lemma(word), kind)
            for sense in self._reader.synsets(base, kind) if base else ():
                counts = (lemma.count() for lemma in sense.lemmas() if lemma.name().lower() == base)
                weights[kind] += 1 + 1000 * sum(counts)
        return weights.most_common(1)[0][0] if weights else None


def load_lexicon(name: str) -> Lexicon:
    """Return a lexicon: `none` (empty), a file of data/lexicons, or `wordnet:<folder of the database files>`.

    Raises:
        UserError: unknown name, a damaged file, a folder that is not WordNet's.
    """
    return _load(name)


@cache
def _load(name: str) -> Lexicon:
    if name == "none":
        return Lexicon({})
    if name.startswith(WORDNET):
        return WordNet(name.removeprefix(WORDNET))
    known = {path.stem: path for path in (DATA / "lexicons").glob("*.json")}
    if name not in known:
        raise UserError(f"lexicon: unknown name {name!r}{nearest(name, [*known, 'none', WORDNET + 'FOLDER'])}")
    return Lexicon(_checked(known[name]))


def _checked(path: Path) -> dict[str, dict[str, Any]]:
    content = read_json(path)
    words = content.get("words") if isinstance(content, dict) else None
    if not isinstance(words, dict):
        raise UserError(f'{path}: should hold {{"words": {{word: {{"pos": ..., "synonyms": [...]}}}}}}')
    for word, entry in words.items():
        synonyms = entry.get("synonyms") if isinstance(entry, dict) else None
        texts = isinstance(synonyms, list) and all(isinstance(synonym, str) for synonym in synonyms)
        if not texts or not isinstance(entry.get("pos"), str):
            raise UserError(f"{path}: {word!r} should have a text `pos` and a list of texts `synonyms`")
    return words


def _lemma(word: str) -> str:
    return word.lower().replace(" ", "_")
