"""Synonyms and word classes for methods that change captions: from a file in `data/lexicons`, or from WordNet,
optionally with word classes from a spaCy pipeline.

Example:

    lexicon = load_lexicon("scenes")
    lexicon.synonyms("ball")  # ["sphere"]
    lexicon.word_class("ball")  # "noun"
"""

import importlib.util
import io
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from antidote.base.errors import UserError, nearest
from antidote.base.files import DATA, read_json

FOLDER = DATA / "wordnet"  # written by scripts/wordnet.py
FILES = (
    *(f"{kind}.{part}" for kind in ("data", "index") for part in ("noun", "verb", "adj", "adv")),
    *(f"{part}.exc" for part in ("noun", "verb", "adj", "adv")),
    "lexnames", "cntlist.rev", "LICENSE",
)  # fmt: skip
OPTIONAL = {"index.sense", "lexnames"}  # index.sense: other WordNet versions only; lexnames: only names of files
LEXICOGRAPHER_FILES = 45
WORDNET, SPACY = "wordnet:", "spacy:"
FUNCTION_WORDS = "function_words"
WORD_CLASSES = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
TAGS = {"NOUN": "noun", "PROPN": "noun", "VERB": "verb", "ADJ": "adjective", "ADV": "adverb", "ADP": "preposition"}


def lexicon_files(name: str) -> list[Path]:
    """Return the files of a lexicon; for the WordNet that `scripts/wordnet.py` fetches, also before they exist."""
    if name == "wordnet" or name.startswith(SPACY):
        return [own_file(FUNCTION_WORDS), *(FOLDER / file for file in FILES)]
    if name.startswith(WORDNET):
        found = sorted(Path(name.removeprefix(WORDNET)).glob("*"))
        return [own_file(FUNCTION_WORDS), *(path for path in found if path.is_file())]  # wordnet-gui adds folders
    return [file] if (file := own_file(name)).is_file() else []


def own_file(name: str) -> Path:
    return DATA / "lexicons" / f"{name}.json"


class Lexicon:
    """Words with a class (noun, verb, adjective, adverb, preposition, ...) and synonyms; case is ignored."""

    def __init__(self, words: Mapping[str, Mapping[str, Any]]) -> None:
        """`words`: {word: {"pos": class, "synonyms": [word, ...]}}."""
        self._words = {word.lower(): entry for word, entry in words.items()}

    def synonyms(self, word: str) -> list[str]:
        """Return words that can replace `word`; [] for an unknown word."""
        entry = self._words.get(word.lower())
        return list(entry["synonyms"]) if entry else []

    def word_class(self, word: str) -> str | None:
        """Return the class of `word`, or None for an unknown word."""
        entry = self._words.get(word.lower())
        return entry["pos"] if entry else None

    def word_classes(self, words: list[str]) -> list[str | None]:
        """Return the class of each word of a text."""
        return [self.word_class(word) for word in words]

    def meanings(self, word: str, word_class: str) -> tuple[frozenset, frozenset]:
        """Return the meanings of a word in a class, and the same set plus synonyms and more general meanings.

        Two words are related if the meanings of one intersect the extended set of the other.
        """
        own = frozenset([word.lower()])
        return own, own.union(synonym.lower() for synonym in self.synonyms(word))

    def parents(self, word: str, word_class: str) -> frozenset:
        """Return the direct hypernyms of a word's most frequent sense, empty for a plain list.

        Words with a common parent are siblings.
        """
        return frozenset()

    def words(self, word_class: str) -> list[str]:
        """Return the words of a class, sorted."""
        return sorted(word for word, entry in self._words.items() if entry["pos"] == word_class)


class WordNet(Lexicon):
    """Princeton WordNet's database files. Inflected words are looked up by their base form; synonyms are base forms.

    WordNet has no function words and lists "a" and "in" as nouns, so their classes come from the project's own table.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open the database files in `folder`.

        Raises:
            UserError: a database file is missing, damaged, or not accepted by NLTK.
        """
        import nltk.data
        from nltk.corpus.reader import WordNetCorpusReader

        folder = str(Path(folder).resolve())
        there = {path.name for path in Path(folder).glob("*")}
        missing = sorted(set(WordNetCorpusReader._FILES) - there - OPTIONAL)
        if missing:
            own = Path(folder) == FOLDER.resolve()
            how = "; in a checkout `python -m scripts.wordnet` fetches it; else name wordnet:FOLDER" if own else ""
            raise UserError(f"lexicon: {folder}: holds no WordNet database, {missing[0]} is missing{how}")
        if folder not in nltk.data.path:
            nltk.data.path.append(folder)  # NLTK reads only from folders in this list

        class Reader(WordNetCorpusReader):
            """NLTK's reader without other languages; the file `lexnames`, which Debian omits, is optional."""

            def map_wn(self, version: str = "wordnet") -> None:
                """Skip the mapping to NLTK's own copy of WordNet; only other languages need it."""

            def open(self, file: str) -> Any:
                if file == "lexnames" and file not in there:
                    return io.StringIO("".join(f"{number:02d} unknown 0\n" for number in range(LEXICOGRAPHER_FILES)))
                return super().open(file)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing other languages
            try:
                self._reader = Reader(folder, None)
                if None in self._reader.synsets("dog"):
                    raise UserError(f"lexicon: {folder}: damaged: data.noun is not where index.noun says; copy it anew")
            except PermissionError as error:  # NLTK rejects files that another account can change
                raise UserError(f"lexicon: {folder}: {error}") from None
        self._function_words = Lexicon(_checked(own_file(FUNCTION_WORDS)))
        self._counts = _counts(Path(folder) / "cntlist.rev")
        self._kinds: dict[str, str | None] = {}
        self._synonyms: dict[str, list[str]] = {}
        self._general: dict[Any, frozenset] = {}

    def synonyms(self, word: str) -> list[str]:
        """Return the other words of all senses in the word's most frequent class, most frequent sense first."""
        if word not in self._synonyms:
            self._synonyms[word] = self._looked_up(word)
        return list(self._synonyms[word])

    def _looked_up(self, word: str) -> list[str]:
        kind = self._kind(word)
        if kind is None:
            return []
        names = (name for sense in self._reader.synsets(_lemma(word), kind) for name in sense.lemma_names())
        base = self._reader.morphy(_lemma(word), kind)
        found = dict.fromkeys(name.replace("_", " ") for name in names)
        return [name for name in found if name.lower() not in (word.lower(), base.replace("_", " "))]

    def meanings(self, word: str, word_class: str) -> tuple[frozenset, frozenset]:
        """Return the word and its senses, and the same set plus all hypernyms of any sense; see `Lexicon`."""
        kind = next(kind for kind, name in WORD_CLASSES.items() if name == word_class)
        senses = self._reader.synsets(_lemma(word), kind)
        own = frozenset([word.lower(), *senses])
        return own, own.union(*(self._more_general(sense) for sense in senses))

    def parents(self, word: str, word_class: str) -> frozenset:
        kind = next(kind for kind, name in WORD_CLASSES.items() if name == word_class)
        senses = self._reader.synsets(_lemma(word), kind)
        return frozenset(senses[0].hypernyms()) if senses else frozenset()

    def _more_general(self, sense: Any) -> frozenset:
        """Return a sense and all its hypernyms; cached, because most words share the general senses."""
        if sense not in self._general:
            above = [*sense.hypernyms(), *sense.instance_hypernyms()]
            self._general[sense] = frozenset([sense]).union(*(self._more_general(one) for one in above))
        return self._general[sense]

    def word_class(self, word: str) -> str | None:
        kind = self._kind(word)
        return WORD_CLASSES[kind] if kind else self._function_words.word_class(word)

    def words(self, word_class: str) -> list[str]:
        kinds = [kind for kind, name in WORD_CLASSES.items() if name == word_class and kind != "s"]
        return sorted({name.replace("_", " ") for kind in kinds for name in self._reader.all_lemma_names(kind)})

    def _kind(self, word: str) -> str | None:
        """Return the most frequent class of a content word, by WordNet's counts, then by the number of senses."""
        if word not in self._kinds:
            self._kinds[word] = None if self._function_words.word_class(word) else self._commonest(word)
        return self._kinds[word]

    def _commonest(self, word: str) -> str | None:
        bases = {kind: base for kind in "nvar" if (base := self._reader.morphy(_lemma(word), kind))}
        weights = {k: 1000 * self._counts[base, k] + len(self._reader.synsets(base, k)) for k, base in bases.items()}
        return max(weights, key=weights.get) if weights else None


def _counts(path: Path) -> Counter[tuple[str, str]]:
    """Return the count of each (base form, class); a line begins with a sense key, such as `dog%1:05:00::`."""
    found: Counter[tuple[str, str]] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, count = line.split()
        base, _, place = key.rpartition("%")
        found[base, "nvara"[int(place[0]) - 1]] += int(count)
    return found


class Tagged(WordNet):
    """WordNet's synonyms, and word classes from a spaCy pipeline, which tags each word in its caption's context."""

    def __init__(self, folder: str | Path, pipeline: str) -> None:
        """Open WordNet in `folder` and load the spaCy pipeline.

        Raises:
            UserError: WordNet or the pipeline cannot be loaded.
        """
        super().__init__(folder)
        try:
            import spacy

            self._tag = spacy.load(pipeline)
        except (ImportError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"lexicon: spacy:{pipeline}: cannot be loaded ({reason}); install it, or take `wordnet`"
            ) from None

    def word_classes(self, words: list[str]) -> list[str | None]:
        from spacy.tokens import Doc

        return [TAGS.get(token.pos_) for token in self._tag(Doc(self._tag.vocab, words=words))] if words else []


def check_lexicon(name: str) -> None:
    """Check a lexicon's name without reading WordNet, whose files may not exist yet.

    Raises:
        UserError: unknown name, a damaged file in data/lexicons, or spaCy is not installed.
    """
    if name.startswith(SPACY) and importlib.util.find_spec("spacy") is None:
        raise UserError(f"lexicon: {name}: spaCy is not installed; pip install spacy, or take `wordnet`")
    if name != "wordnet" and not name.startswith((WORDNET, SPACY)):
        load_lexicon(name)


def load_lexicon(name: str) -> Lexicon:
    """Return a lexicon.

    Args:
        name: `none` (empty), the name of a file in data/lexicons, `wordnet` (fetched by `scripts/wordnet.py`),
            `wordnet:<folder of the database files>`, or `spacy:<pipeline>` (classes from the pipeline, synonyms from
            `wordnet`).

    Raises:
        UserError: unknown name, a damaged file, a folder without WordNet, a pipeline that cannot be loaded.
    """
    return _load(name)


@cache
def _load(name: str) -> Lexicon:
    if name == "none":
        return Lexicon({})
    if name.startswith(WORDNET):
        return WordNet(name.removeprefix(WORDNET))
    if name == "wordnet":
        return WordNet(FOLDER)
    if name.startswith(SPACY):
        return Tagged(FOLDER, name.removeprefix(SPACY))
    known = {path.stem: path for path in (DATA / "lexicons").glob("*.json")}
    if name not in known:
        raise UserError(
            f"lexicon: unknown name {name!r}{nearest(name, [*known, 'none', 'wordnet', WORDNET + 'FOLDER'])}"
        )
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
