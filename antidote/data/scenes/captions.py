"""Captions of `scenes`: each names the object, and most name nothing else.

In a trial with captions dominated by colours and places, CLIP learned colours and places and hardly the object.
Therefore three captions in five name only the object, and most of the others add one detail. Some words are replaced by
a synonym.
"""

from typing import TYPE_CHECKING

from antidote.data.scenes.draws import Draws

if TYPE_CHECKING:
    from antidote.data.scenes.things import Scene

PLAIN = (
    "a {noun}", "the {noun}", "one {noun}", "a picture of a {noun}", "a photo of a {noun}", "this is a {noun}",
    "there is a {noun}", "a close view of a {noun}",
)  # fmt: skip
COLOURED = ("a {colour} {noun}", "a picture of a {colour} {noun}", "the {noun} is {colour}")
SIZED = ("a {size} {noun}", "a photo of a {size} {noun}", "the {noun} looks {size}")
PLACED = ("a {noun} {where}", "the {noun} {verb} {adverb}{where}", "a {noun} {verb} {adverb}{where}")
PAIRED = ("a {noun} {beside} a tiny {second}", "there is a {noun} {beside} a small {second}")
RICH = ("a {size} {colour} {noun} {verb} {where}", "a {colour} {noun} {verb} {adverb}{where}")
FORMS = {PLAIN: 0.6, COLOURED: 0.14, SIZED: 0.08, PLACED: 0.12, RICH: 0.06}

WHERE = {
    "wall": ("in front of a wall", "against the wall"),
    "sky": ("in the sky", "under the sky"),
    "grass": ("on the grass", "above the grass"),
    "sand": ("on the sand", "above the sand"),
    "water": ("on the water", "above the water"),
    "floor": ("on the floor", "above the floor"),
}
VERBS = {"on": ("lies", "rests", "stands"), "above": ("floats", "hovers"), "in": ("floats", "hangs"),
         "under": ("lies", "stands"), "against": ("leans", "rests")}  # fmt: skip
ADVERBS = ("", "", "", "quietly ", "calmly ", "proudly ")
BESIDE = {
    "left": ("next to", "beside"),
    "right": ("next to", "beside"),
    "above": ("below", "under"),
    "below": ("above", "over"),
}
LARGE, SMALL = 0.84, 0.74  # smallest scale of an object called large, largest scale of an object called small

# Synonyms by word; they replace the word at a low rate, so that CLIP learns them too.
SYNONYMS = {
    "ball": ("sphere",), "banana": ("plantain",), "boat": ("ship",), "bottle": ("flask",), "brick": ("block",),
    "cactus": ("saguaro",), "crown": ("tiara",), "flower": ("blossom",), "hammer": ("mallet",), "house": ("cottage",),
    "ladder": ("stepladder",), "mug": ("cup",), "mushroom": ("toadstool",), "ring": ("hoop",), "tree": ("fir",),
    "picture": ("drawing", "sketch"), "photo": ("photograph", "snapshot"), "view": ("shot",),
    "grass": ("lawn",), "sand": ("beach",), "water": ("sea",), "floor": ("ground",), "wall": ("backdrop",),
    "sky": ("heavens",),
    "red": ("crimson", "scarlet"), "yellow": ("golden",), "green": ("jade",), "blue": ("navy",),
    "purple": ("violet",), "white": ("pale",),
    "large": ("big", "huge"), "small": ("little", "compact"), "tiny": ("miniature",), "close": ("near",),
    "lies": ("reclines",), "rests": ("sits",), "stands": ("towers",), "floats": ("drifts",), "hovers": ("soars",),
    "hangs": ("dangles",), "leans": ("tilts",), "looks": ("seems",),
    "quietly": ("silently",), "calmly": ("peacefully",), "proudly": ("boldly",),
}  # fmt: skip
SYNONYM_SHARE = 0.12


def write(scene: "Scene", draws: Draws) -> list[str]:
    """Return one caption for each of the N pictures, lower case, half of them with a full stop."""
    from antidote.data.scenes.things import CLASSES, COLOURS, PLACES, SIDES

    forms, colours, places = list(FORMS), list(COLOURS), list(PLACES)
    form = draws.weighted("form", list(FORMS.values()))
    picks = [draws.uniform(f"word {number}") for number in range(6)]
    told, stop = draws.uniform("told") < 0.6, draws.uniform("stop") < 0.5
    swap = [draws.uniform(f"swap {number}") for number in range(8)]
    texts = []
    for row in range(len(form)):
        kind, pick = forms[form[row]], [values[row] for values in picks]
        scale, side, place = scene.scale[row], SIDES[scene.side[row]], places[scene.place[row]]
        if scene.paired[row] and told[row]:
            kind = PAIRED
        elif kind is SIZED and SMALL < scale < LARGE:
            kind = PLAIN
        where = _one(WHERE[place], pick[1])
        words = {
            "noun": CLASSES[scene.label[row]],
            "colour": colours[scene.colour[row]],
            "size": "large" if scale >= LARGE else "small" if scale <= SMALL else "",
            "where": where,
            "verb": _one(VERBS[where.split()[0]], pick[2]) if kind in (PLACED, RICH) else "",
            "adverb": _one(ADVERBS, pick[3]),
            "beside": _one(BESIDE[side], pick[4]),
            "second": CLASSES[scene.second_label[row]],
        }
        text = _one(kind, pick[0]).format(**words)
        text = _synonyms(text.split(), [values[row] for values in swap])
        texts.append(text + "." if stop[row] else text)
    return texts


def _one(choices: tuple[str, ...], fraction: float) -> str:
    return choices[int(fraction * len(choices))]


def _synonyms(words: list[str], fractions: list[float]) -> str:
    """Replace words by synonyms with probability SYNONYM_SHARE; one random fraction decides and selects."""
    for position, word in enumerate(words):
        fraction = fractions[position % len(fractions)]
        if fraction < SYNONYM_SHARE and word in SYNONYMS:
            words[position] = _one(SYNONYMS[word], fraction / SYNONYM_SHARE)
    return " ".join(words)
