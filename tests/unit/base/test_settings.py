"""Settings: unknown keys and wrong values are one line that names key and nearest word; slices are canonical."""

import json
from typing import Annotated, Literal

import pytest
from pydantic import Discriminator, Field, Tag, model_validator

from antidote.base.errors import UserError, nearest
from antidote.base.settings import Seed, Settings, Span, read_mapping, read_text_mapping


class Inner(Settings):
    batch_size: int = Field(64, ge=1)
    kind: Literal["one", "two"] = "one"


class Outer(Settings):
    name: str
    rate: float = 0.5
    inner: Inner = Inner()
    maybe: Inner | None = None

    @model_validator(mode="after")
    def _check(self):
        if self.name == "bad":
            raise ValueError("name: 'bad' will not do")
        return self


def told(values):
    with pytest.raises(UserError) as error:
        Outer.read(values, "file.yaml")
    text = str(error.value)
    assert "\n" not in text and text.startswith("file.yaml: ")
    return text.removeprefix("file.yaml: ")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"name": "x", "raet": 1}, "raet: unknown key; did you mean 'rate'?"),
        ({"name": "x", "zzz": 1}, "zzz: unknown key; known: inner, maybe, name, rate"),
        ({"name": "x", "inner": {"bach_size": 2}}, "inner.bach_size: unknown key; did you mean 'batch_size'?"),
        ({"name": "x", "maybe": {"bach_size": 2}}, "maybe.bach_size: unknown key; did you mean 'batch_size'?"),
        ({}, "name: is missing"),
        ({"nmae": "x"}, "nmae: unknown key; did you mean 'name'?"),
        ({"nmae": "x", "rate": "fast"}, "nmae: unknown key; did you mean 'name'? (and 1 more)"),
        ({"raet": 1}, "name: is missing (and 1 more)"),
        ({"name": "bad"}, "name: 'bad' will not do"),
        ({"name": "x", "inner": {"kind": "three"}}, "inner.kind: input should be 'one' or 'two', not 'three'"),
        ({"name": "x", "inner": {"batch_size": 0}},
         "inner.batch_size: input should be greater than or equal to 1, not 0"),
        ({"name": "x", "rate": float("nan")}, "rate: input should be a finite number, not nan"),
        ({"name": "x", "rate": "fast"}, "rate: input should be a valid number, unable to parse string as a number, "
                                        "not 'fast'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(values, text):
    assert told(values) == text


def test_several_faults_are_counted():
    assert told({"a": 1, "b": 2}).endswith(" (and 2 more)")


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="x").rate = 1.0


def test_slices_are_canonical():
    """Whatever stands in the file, equal settings are equal text; defaults are filled in."""
    one = Outer.read({"rate": 1, "name": "x"}, "f").slice()
    other = Outer.read({"name": "x", "rate": 1.0, "inner": {"kind": "one"}}, "f").slice()
    assert one == other == '{"inner":{"batch_size":64,"kind":"one"},"maybe":null,"name":"x","rate":1.0}'
    assert Outer.read(json.loads(one), "f").slice() == one
    assert (
        Outer.read({"name": "x", "rate": 1e-6}, "f").slice() == Outer.read({"name": "x", "rate": "1e-6"}, "f").slice()
    )


@pytest.mark.parametrize(
    ("word", "known", "text"),
    [
        ("bannana", ["banana", "boat"], "; did you mean 'banana'?"),
        ("xyz", ["boat", "banana"], "; known: banana, boat"),
        ("xyz", [], ""),
        ("", ["a"], "; known: a"),
    ],
)
def test_nearest(word, known, text):
    assert nearest(word, known) == text


# --- mappings --------------------------------------------------------------------------------------------------------


def test_a_mapping_is_text_or_a_file(tmp_path):
    assert read_mapping('{"a": 1, "b": {"c": null}}') == {"a": 1, "b": {"c": None}}
    assert read_mapping("  {a: [1, x]}") == {"a": [1, "x"]}
    for name, text in (("f.json", '{"a": 1}'), ("f.yaml", "a: 1\n")):
        (tmp_path / name).write_text(text)
        assert read_mapping(str(tmp_path / name)) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a: [1\nb: 2", "not valid YAML or JSON"),
        ("- 1\n- 2", "should hold keys and values, holds list"),
        ("", "should hold keys and values, holds nothing"),
        ("a: 1\na: 2", "'a' stands there twice"),
        ("a: &x\n  b: [*x]", "an alias (*NAME) stands within what it refers to"),
        (b"\xff\xfe\x00", "is not a text file"),
        (None, r"cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_mapping(tmp_path, content, text):
    path = tmp_path / "f.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_mapping(str(path))
    assert str(error.value).startswith(str(path)) and text in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ['{"k": 3, "k": 5}', '{"g": [{"k": 3, "k": 5}]}', '{"k": 3, "\\u006b": 5}', "{k: 3, k: 5}"]
)
def test_a_key_that_stands_twice_in_a_text(text):
    with pytest.raises(
        UserError, match=r"^settings, line 1, column \d+: not valid YAML or JSON \('k' stands there twice\)$"
    ):
        read_mapping(text)


def test_yaml_never_runs_code(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text(f"a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{path}.ran']]")
    with pytest.raises(UserError, match="not valid YAML"):
        read_mapping(str(path))
    assert not (tmp_path / "f.yaml.ran").exists()


class Numbers(Settings):
    count: int | None = None
    share: float = 0.5
    seeds: list[Seed] = [0]
    rows: dict[str, int] = {}
    span: Span = (0.5, 1.0)
    sides: int | Literal["all"] = 4
    on: bool = False
    any_way: bool | int = 0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"count": True}, "count: should be a number, not True"),
        ({"share": False}, "share: should be a number, not False"),
        ({"seeds": [0, True]}, "seeds: should be a number, not [0, True]"),
        ({"rows": {"train": True}}, "rows: should be a number, not {'train': True}"),
        ({"span": [True, 1]}, "span: should be a number, not [True, 1]"),
        ({"sides": True}, "sides: should be a number, not True"),
        ({"seeds": [2**63]}, f"seeds.0: input should be less than {2**63}, not {2**63}"),
        ({"seeds": [-1]}, "seeds.0: input should be greater than or equal to 0, not -1"),
    ],
)
def test_truth_values_are_no_numbers_and_seeds_have_bounds(values, text):
    with pytest.raises(UserError) as error:
        Numbers.read(values, "f")
    assert str(error.value) == f"f: {text}"


class Kinds(Settings):
    names: str | list[str] | None = None
    count: int | dict[str, int] = 0
    sides: int | Literal["all"] = 4
    rows: list[list[str | float | None]] = []
    one: Annotated[Annotated[Inner, Tag("a")] | Annotated[Outer, Tag("b")], Discriminator(lambda _: "a")] | None = None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"names": [1, 2]}, "names.0: input should be a valid string, not 1; put it in quotes (and 1 more)"),
        ({"names": ["a", {"b": 1}]}, "names.1: input should be a valid string, not {'b': 1}"),
        ({"names": 3}, "names: input should be a valid string or a valid list, not 3; put it in quotes"),
        ({"count": {"a": "x"}}, "count.a: input should be a valid integer, unable to parse string as an integer, not 'x'"),
        ({"count": []}, "count: input should be a valid integer or a valid dictionary, not []"),
        ({"sides": None}, "sides: input should be a valid integer or 'all', not None"),
        ({"rows": [["a", []]]}, "rows.0.1: input should be a valid string or a valid number, not []"),
        ({"one": {"bach_size": 2}}, "one.bach_size: unknown key; did you mean 'batch_size'?"),
    ],
)  # fmt: skip
def test_a_value_of_several_kinds_is_told_by_its_key_alone(values, text):
    with pytest.raises(UserError) as error:
        Kinds.read(values, "f")
    assert str(error.value) == f"f: {text}"


def test_truth_values_where_they_belong():
    found = Numbers.read({"on": True, "any_way": True, "seeds": [2**63 - 1], "share": "1e-3", "sides": "all"}, "f")
    assert (found.on, found.any_way, found.seeds, found.share) == (True, True, [2**63 - 1], 1e-3)


@pytest.mark.parametrize("key", ["no", "on", "2024", "~", "1.5", "2024-01-01"])
def test_a_key_that_yaml_takes_for_something_else(tmp_path, key):
    (tmp_path / "s.yaml").write_text(f"a: 1\nb:\n  {key}: 2\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_mapping(str(tmp_path / "s.yaml"))
    assert (
        f"s.yaml, line 3, column 3: not valid YAML or JSON (the key '{key}' is no text in YAML; put it in quotes)"
        in str(error.value)
    )
    (tmp_path / "s.yaml").write_text(f'b:\n  "{key}": 2\n', encoding="utf-8")
    assert read_mapping(str(tmp_path / "s.yaml")) == {"b": {key: 2}}


def test_a_value_or_a_key_that_should_be_text():
    assert told({"name": False}) == "name: input should be a valid string, not False; put it in quotes"
    assert told({"name": ["x"]}) == "name: input should be a valid string, not ['x']"
    with pytest.raises(UserError) as error:
        Numbers.read({"rows": {True: 2}}, "f")
    assert str(error.value) == "f: rows: a key should be text, not True; put it in quotes"


@pytest.mark.parametrize(
    ("text", "value"), [("de: a\n'no': No", "False"), ('{"de": "a", "no": 7}', "7"), ("no_: 08.0", "8.0")]
)
def test_a_file_of_names_holds_texts(tmp_path, text, value):
    (tmp_path / "n.yaml").write_text(text.replace("no_", "'no'"), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_text_mapping(str(tmp_path / "n.yaml"))
    assert str(error.value) == f"{tmp_path}/n.yaml: no: should be text, not {value}; put it in quotes"


def test_an_alias_can_stand_in_several_places(tmp_path):
    """Also where each level names the one below twice, 2^40 places in all."""
    lines = ["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 41))]
    (tmp_path / "f.yaml").write_text("\n".join(lines))
    assert read_mapping(str(tmp_path / "f.yaml"))["a1"] == [[1], [1]]
