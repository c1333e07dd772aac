"""Lexicons: the project's files, none, and WordNet's database files (a tiny one, made here)."""

import functools
import http.server
import importlib.util
import json
import threading
import zipfile

import pytest

from antidote.base.errors import UserError
from antidote.base.files import sha256
from antidote.data.words import lexicon
from antidote.data.words.wordnet import fetch

SENSES = {  # part of speech: [(words, count of the first word)]
    "noun": [
        (["thing"], 9),
        (["animal"], 8),
        (["dog", "domestic_dog"], 42),
        (["dog", "hound"], 1),
        (["run", "streak"], 2),
    ],
    "verb": [(["run", "sprint"], 90), (["walk"], 5)],
    "adj": [(["big", "large"], 30)],
    "adv": [(["quickly", "rapidly", "big"], 3)],
}
ABOVE = [("thing", "animal"), ("animal", "dog")]  # a noun and one more special, in its first sense
NUMBERS = {"noun": (1, "n"), "verb": (2, "v"), "adj": (3, "a"), "adv": (4, "r")}


@pytest.fixture
def wordnet(tmp_path):
    """Write database files in WordNet's format: data.* lines are found by their byte offset."""
    counts = []
    for kind, senses in SENSES.items():
        number, letter = NUMBERS[kind]
        data, places = "", {}
        for words, count in senses:
            offset = len(data)
            members = " ".join(f"{word} 0" for word in words)
            frames = " 01 + 02 00" if kind == "verb" else ""
            above = [places[word][0] for word, below in ABOVE if below == words[0] and count != 1]
            pointers = "".join(f" @ {place:08d} {letter} 0000" for place in above)
            data += (
                f"{offset:08d} {number - 1:02d} {letter} {len(words):02x} {members} {len(above):03d}{pointers}{frames}"
            )
            data += " | meaning\n"
            for word in words:
                places.setdefault(word, []).append(offset)
            counts.append(f"{words[0]}%{number}:{number - 1:02d}:00:: 1 {count}")
        index = [
            f"{word} {letter} {len(found)} 0 {len(found)} 0 " + " ".join(f"{place:08d}" for place in found)
            for word, found in sorted(places.items())
        ]
        (tmp_path / f"data.{kind}").write_text(data)
        (tmp_path / f"index.{kind}").write_text("\n".join(index) + "\n")
        (tmp_path / f"{kind}.exc").write_text("ran run\n" if kind == "verb" else "")
    (tmp_path / "lexnames").write_text("".join(f"{n:02d}\t{kind}.all\t{n + 1}\n" for n, kind in enumerate(NUMBERS)))
    (tmp_path / "cntlist.rev").write_text("\n".join(sorted(counts)) + "\n")
    (tmp_path / "index.sense").write_text("")
    return tmp_path


def test_none_knows_no_word():
    empty = lexicon.load_lexicon("none")
    assert empty.synonyms("red") == [] and empty.word_class("red") is None and empty.words("noun") == []


def test_scenes_lexicon():
    scenes = lexicon.load_lexicon("scenes")
    assert scenes.synonyms("Red") == ["crimson", "scarlet"]
    assert scenes.word_class("banana") == "noun" and scenes.word_class("lies") == "verb"
    assert "banana" in scenes.words("noun") and scenes.words("noun") == sorted(scenes.words("noun"))


def test_synonyms_cannot_be_changed_from_outside():
    lexicon.load_lexicon("scenes").synonyms("red").clear()
    assert lexicon.load_lexicon("scenes").synonyms("red")


def test_unknown_name():
    with pytest.raises(UserError, match=r"lexicon: unknown name 'scene'; did you mean 'scenes'\?"):
        lexicon.load_lexicon("scene")


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"words": {"a": []}}', '{"words": {"a": {"pos": "noun", "synonyms": "b"}}}', "x"]
)
def test_bad_files_give_one_line(tmp_path, monkeypatch, content):
    (tmp_path / "lexicons").mkdir()
    (tmp_path / "lexicons" / "bad.json").write_text(content)
    monkeypatch.setattr(lexicon, "DATA", tmp_path)
    lexicon._load.cache_clear()
    with pytest.raises(UserError, match=r"bad\.json: "):
        lexicon.load_lexicon("bad")


def test_every_lexicon_of_the_project_is_valid():
    for path in (lexicon.DATA / "lexicons").glob("*.json"):
        assert json.loads(path.read_text())["words"]
        lexicon.load_lexicon(path.stem)


def test_wordnet_synonyms_and_classes(wordnet):
    words = lexicon.load_lexicon(f"wordnet:{wordnet}")
    assert words.synonyms("dog") == ["domestic dog", "hound"]
    assert words.word_class("dog") == "noun"
    assert words.word_class("run") == "verb", "the commoner class counts"
    assert words.synonyms("run") == ["sprint"]
    assert words.word_class("big") == "adjective" and words.word_class("quickly") == "adverb"
    assert words.words("verb") == ["run", "sprint", "walk"]
    assert words.words("preposition") == []


def test_folders_beside_the_database_files_are_no_files_of_the_lexicon(wordnet):
    """Debian's packages put a program and pictures into /usr/share/wordnet."""
    before = lexicon.lexicon_files(f"wordnet:{wordnet}")
    (wordnet / "bin").mkdir()
    assert lexicon.lexicon_files(f"wordnet:{wordnet}") == before and len(before) > 10


def test_wordnet_takes_inflected_words_for_their_base(wordnet):
    words = lexicon.load_lexicon(f"wordnet:{wordnet}")
    assert words.word_class("Dogs") == "noun" and words.synonyms("dogs") == ["domestic dog", "hound"]
    assert words.word_class("ran") == "verb" and words.synonyms("ran") == ["sprint"]


def test_wordnet_knows_what_is_true_of_a_word(wordnet):
    words = lexicon.load_lexicon(f"wordnet:{wordnet}")
    (dog, true), (animal, _), (thing, of_things) = (words.meanings(w, "noun") for w in ("Dogs", "animal", "thing"))
    assert words.meanings("dog", "noun")[0] - {"dog"} == dog - {"dogs"} and len(dog) == 3, "two senses and itself"
    assert animal & true and thing & true and not dog & of_things
    assert words.meanings("hound", "noun")[0] & true, "a synonym"
    assert not words.meanings("run", "noun")[0] & true and words.meanings("xyzzy", "verb") == ({"xyzzy"}, {"xyzzy"})
    assert not words.meanings("run", "noun")[1] & words.meanings("run", "verb")[1] - {"run"}, "classes are apart"


def test_wordnet_does_not_know_every_word(wordnet):
    words = lexicon.load_lexicon(f"wordnet:{wordnet}")
    assert words.synonyms("xyzzy") == [] and words.word_class("xyzzy") is None


def test_wordnet_folder_without_its_files(tmp_path):
    with pytest.raises(UserError, match=r"holds no WordNet database, .* is missing"):
        lexicon.load_lexicon(f"wordnet:{tmp_path / 'nowhere'}")


def test_a_wordnet_that_is_not_fetched_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr(lexicon, "FOLDER", tmp_path / "wordnet")
    with pytest.raises(UserError, match=r"is missing; in a checkout `python -m scripts\.wordnet` .* wordnet:FOLDER$"):
        lexicon._load.__wrapped__("wordnet")


def test_wordnets_function_words_are_no_nouns(wordnet):
    found = lexicon.load_lexicon(f"wordnet:{wordnet}")
    assert found.word_classes(["the", "dog", "in", "his", "Behind"]) == [
        "determiner", "noun", "preposition", "pronoun", "preposition",
    ]  # fmt: skip
    assert found.synonyms("in") == []


def archive(folder, wordnet, without=()):
    """Zip a WordNet folder as NLTK does; return the archive."""
    (wordnet / "LICENSE").write_text("terms")
    with zipfile.ZipFile(folder / "wordnet.zip", "w") as file:
        for name in set(lexicon.FILES) - set(without):
            file.write(wordnet / name, f"wordnet/{name}")
    return folder / "wordnet.zip"


@pytest.fixture
def served(tmp_path_factory):
    """A web server on this machine; yields its folder and address."""
    folder = tmp_path_factory.mktemp("web")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_wordnet_is_fetched_by_hash(wordnet, served, tmp_path):
    file = archive(served[0], wordnet)
    fetch(tmp_path / "from_web", url=f"{served[1]}/wordnet.zip", digest=sha256(file))
    fetch(tmp_path / "from_file", archive=file, digest=sha256(file))
    for folder in ("from_web", "from_file"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == set(lexicon.FILES)
        assert lexicon.WordNet(tmp_path / folder).word_class("dog") == "noun"


def test_wordnet_that_cannot_be_had_leaves_nothing(wordnet, served, tmp_path):
    file = archive(served[0], wordnet)
    for message, use in {
        "its SHA-256 is": {"archive": file},
        "cannot be fetched": {"url": f"{served[1]}/none.zip"},
        "refused": {"url": "http://127.0.0.1:1/wordnet.zip"},
        "no such file": {"archive": tmp_path / "none.zip"},
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            fetch(tmp_path / "out", **use)
        assert "wordnet:FOLDER" in str(caught.value)
    short = archive(served[0], wordnet, without=["data.verb"])
    with pytest.raises(UserError, match=r"holds no wordnet/data\.verb"):
        fetch(tmp_path / "out", archive=short, digest=sha256(short))
    assert not (tmp_path / "out").exists()


def test_a_tagger_that_is_not_there(wordnet):
    if importlib.util.find_spec("spacy") is None:
        with pytest.raises(UserError, match="spaCy is not installed"):
            lexicon.check_lexicon("spacy:nothing")
    with pytest.raises(UserError, match="spacy:nothing: cannot be loaded"):
        lexicon.Tagged(wordnet, "nothing")


def test_a_tagger_sees_words_in_their_caption(wordnet, tmp_path, monkeypatch):
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    rules = [{"patterns": [[{"LOWER": "the"}, {"LOWER": "run"}]], "attrs": {"POS": "NOUN"}, "index": 1},
             {"patterns": [[{"LOWER": "dogs"}, {"LOWER": "run"}]], "attrs": {"POS": "VERB"}, "index": 1}]  # fmt: skip
    pipeline.add_pipe("attribute_ruler").initialize(lambda: [], patterns=rules)
    pipeline.to_disk(tmp_path / "pipeline")
    monkeypatch.setattr(lexicon, "FOLDER", wordnet)
    found = lexicon.load_lexicon(f"spacy:{tmp_path / 'pipeline'}")
    assert found.word_classes(["the", "run"])[1] == "noun"
    assert found.word_classes(["dogs", "run"])[1] == "verb"
    assert "hound" in found.synonyms("dog")
