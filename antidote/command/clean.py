"""Run a defense on a CLIP of your own, with your own clean pairs or labelled pictures.

MODEL is an open_clip model folder, a checkpoint file (with --arch), hf-hub:OWNER/NAME or zoo:NAME. Writes a model
folder, with clean.json and report.html in it. With --labelled, a folder with one folder per class, clean accuracy is
measured before and after; with --audit, detectors of models score the model before and after. A defense needs pairs
like those that the model was trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from antidote.base import command_line
from antidote.base.errors import UserError
from antidote.base.files import whole_folder, write_json
from antidote.base.registry import DEFENSES, method
from antidote.base.settings import UniqueKeys
from antidote.clip.files import ADAPTER, CARD, CONFIG, TRAINING_LOG, WEIGHTS
from antidote.command import arguments as shared
from antidote.command import audit, finite, inputs, methods, report, resume
from antidote.command.audit import OWN, Auditor, Finding
from antidote.command.evaluate import scored
from antidote.command.findings import merged
from antidote.command.given import NOTHING, Given, check_given
from antidote.data.access import DefenseData

if TYPE_CHECKING:
    from antidote.clip.model import Clip
    from antidote.defenses.base import Defense
    from antidote.training.session import Work

FILE = "clean.json"
TIMES = ("before", "after")
NEEDED = {
    "clean-pairs": ("--pairs", f"clean pairs, {inputs.KINDS}"),
    "few-labelled": ("--shots", "labelled pictures, a folder of class folders"),
}


@dataclass(frozen=True)
class Cleaned:
    """The result of a defense.

    Attributes:
        clip: the cleaned model.
        accuracy: CA@1 before and after, fractions in [0, 1]; None: no labelled pictures.
        audits: findings before and after, one per detector.
        facts: what was done, by name.
    """

    clip: Clip
    accuracy: tuple[float, float] | None
    audits: tuple[Sequence[Finding], Sequence[Finding]]
    facts: dict[str, Any]

    @property
    def verdict(self) -> str:
        """Return sentences about accuracy, audit and adapter; a clean audit proves nothing."""
        parts = []
        if self.accuracy is not None:
            before, after = (f"{100 * value:.1f} %" for value in self.accuracy)
            parts.append(f"Clean accuracy (CA@1): {before} before, {after} after.")
        if self.audits[0]:
            before, after = (audit.summary(found).rstrip(".") for found in self.audits)
            parts.append(f"Audit before: {before}; after: {after}.")
        if "not_protected" in self.facts:
            parts.append(f"The protection is in {ADAPTER}; open_clip alone loads the suspicious model.")
        parts.append("Whether a backdoor is left is not measured: that needs the trigger.")
        return " ".join(parts)

    def write(self, folder: Path) -> None:
        """Write clean.json and report.html."""
        accuracy = None if self.accuracy is None else dict(zip(TIMES, self.accuracy, strict=True))
        found = {time: [dict(vars(one)) for one in audits] for time, audits in zip(TIMES, self.audits, strict=True)}
        write_json(folder / FILE, {**self.facts, "ca1": accuracy, "audit": found, "verdict": self.verdict})
        rows = [
            {"detector": before.detector, "score before": before.shown, "after": after.shown,
             OWN: thresholds(before, after),
             "among models of this kind before": before.verdict, "among them after": after.verdict}
            for before, after in zip(*self.audits, strict=True)
        ]  # fmt: skip
        shown = [
            report.Shown(picture.picture, picture.title, f"{time} {picture.line}".strip())
            for time, audits in zip(TIMES, self.audits, strict=True)
            for one in audits
            for picture in audit.pictures(one)
        ]
        report.write(folder / "report.html", "Cleaned model", self.verdict, self.facts, rows, shown)


def arguments() -> argparse.ArgumentParser:
    """Return the command line of this command."""
    parser = shared.parser(
        __doc__, "model", *shared.MODEL, "--pairs", *shared.COLUMNS, "--labelled", "--shots", "--classes",
        "--templates", "--lexicon", "--settings", "--population", "--seed",
    )  # fmt: skip
    parser.add_argument("--defense", default="cleanclip", help=f"one of {', '.join(DEFENSES)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting, as training.epochs=5")
    parser.add_argument("--audit", action="append", default=[], metavar="DETECTOR",
                        help="detector that scores the model before and after, which takes twice as long as an audit: "
                        f"one of {', '.join(methods.detectors('model'))}; can be repeated")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("cleaned"), help="model folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Clean a model, write it, and log the result."""
    if args.population and not args.audit:
        raise UserError("--population: needs --audit; without a detector there is no score to compare")
    settings = assigned(args.settings, args.set)
    found = clean(
        inputs.checkpoint(args), Given.of(args), args.defense, settings=settings, detectors=args.audit,
        study=args.population, seed=args.seed, output=args.output,
    )  # fmt: skip
    command_line.log.info("%s", found.verdict)
    command_line.log.info("model folder %s; page %s", args.output, args.output / "report.html")


def clean(
    model: inputs.Model,
    given: Given = NOTHING,
    defense: str = "cleanclip",
    *,
    settings: Mapping[str, Any] | None = None,
    detectors: Sequence[str] = (),
    study: str | Path | None = None,
    seed: int = 0,
    output: str | Path | None = None,
) -> Cleaned:
    """Run a defense on a model; measure accuracy and audit before and after.

    Args:
        model: the suspicious model; a model in memory may be changed.
        given: the data that the defense and the detectors need; `labelled` for the accuracy.
        defense: name of the method.
        settings: settings of the defense that differ from the defaults, groups as mappings.
        detectors: names of the detectors of models that score the model before and after.
        study: results/STUDY, with whose models the scores are compared; None: the models in data/populations.
        seed: seed of the defense and of the detectors.
        output: model folder to write, with card.json, clean.json and report.html; None: nothing is written.

    Raises:
        UserError: the model or the data cannot be read, or are missing; the defense or a setting does not fit.
    """
    from antidote.clip.folder import adapter_facts

    check_given(given)
    facts = {"model": inputs.shown(model, "a model"), "defense": defense, "seed": seed}
    kind = method("defense", defense)
    own = kind.Settings.read({"method": defense, **(settings or {})}, f"defense {defense}")
    made_by = run_of(model, own, seed)
    place = place_of(output, model, made_by)
    auditor = Auditor.of(detectors, study, "--audit", seed=seed, output=place) if detectors else Auditor((), seed=seed)
    clip = inputs.load(model)
    finite.check_model(clip, facts["model"], finite.blank(clip))
    methods.check(kind, own, clip)
    granted = given.granted(clip.size, [kind.access, *auditor.levels], seed)
    data = granted_to(kind, granted, defense)
    made_by["inputs"] = resume.inputs_digest(clip, data, given.lexicon)
    place_of(output, model, made_by)
    known = measured_before(place)
    score = lambda clip, runs: auditor.findings(clip, granted, given.lexicon, runs)
    pictures = given.labels(given.labelled, clip.size) if given.labelled is not None else None
    methods.check_batches(own, data)
    ca1 = lambda clip: scored(clip, *pictures, given.prompts)["ca1"]
    before, audited = ca1(clip) if pictures else None, score(clip, len(TIMES))
    made = kind(own, seed)
    with resume.work(place, made, clip, data, given.lexicon) as work:
        done = made.run(clip, data, work)
        cleaned = done.clip or clip
        if place is not None:
            save(place, made_by, cleaned, done, work)
    accuracy = (before, ca1(cleaned)) if pictures else known.accuracy
    audits = merged(audited, known.audits[0]), merged(score(cleaned, 0), known.audits[1])
    facts |= {f"found_{key}": value for key, value in done.evidence.items()} | adapter_facts(done.clip)
    found = Cleaned(cleaned, accuracy, audits, facts)
    if place is not None:
        with whole_folder(place) as folder:
            found.write(folder)
    return found


@dataclass(frozen=True)
class Measured:
    """What clean.json of an earlier run says; the same command without --labelled or --audit keeps it.

    Attributes:
        accuracy: CA@1 before and after, fractions in [0, 1]; None: not measured.
        audits: findings before and after, one per detector.
    """

    accuracy: tuple[float, float] | None = None
    audits: tuple[Sequence[Finding], Sequence[Finding]] = ((), ())


def measured_before(place: Path | None) -> Measured:
    """Return what clean.json in the output folder says, which `place_of` found to be of the same run.

    Raises:
        UserError: the file is damaged.
    """
    if place is None or not (place / FILE).is_file():
        return Measured()
    there = report.earlier(place / FILE)
    try:
        accuracy, audits = there["ca1"], [there["audit"][time] for time in TIMES]
        pair = None if accuracy is None else tuple(accuracy[time] for time in TIMES)
        return TypeAdapter(Measured).validate_python({"accuracy": pair, "audits": audits})
    except (KeyError, TypeError, ValidationError):
        advice = "name another folder, or remove it"
        raise UserError(f"--output: {place / FILE}: holds no results of this version; {advice}") from None


def thresholds(before: Finding, after: Finding) -> str:
    """Return the method's own threshold, and when it is reached; a method may set it anew for each model."""
    if before.threshold is None and after.threshold is None:
        return "none"
    found = zip(TIMES, (before, after), strict=True)
    return "; ".join(f"{time} {one.row()[OWN]}" for time, one in found)


def place_of(output: str | Path | None, model: inputs.Model, made: Mapping[str, Any]) -> Path | None:
    """Return the folder of the cleaned model, None for none.

    Args:
        made: what card.json says of the run, see `run_of`.

    Raises:
        UserError: the folder cannot be written, has a name that is not UTF-8, is that of the suspicious model, or holds
            a model of another run or results of another command.
    """
    report.check_name("--output", str(output))  # safetensors reads no weights there
    place = report.place(output)
    named = isinstance(model, str | Path | inputs.Checkpoint)
    if place is not None and named and place.resolve() == Path(str(model)).resolve():
        raise UserError(f"--output: {output}: is the suspicious model; name another folder")
    if place is None or not any((place / name).is_file() for name in (WEIGHTS, CONFIG, CARD)):
        return report.kept(output, "clean")
    report.refuse_others(place, "clean")
    card = report.earlier(place / CARD) if (place / CARD).is_file() else None
    if not isinstance(card, dict) or card.get("kind") != made["kind"]:
        what = "a model of another origin"
        raise UserError(f"--output: {output}: holds {what}, which would be lost; name another folder")
    if any(card.get(key) != value for key, value in made.items()):
        settings = card.get("settings")
        name = settings.get("method") if isinstance(settings, Mapping) else "unknown"
        told = f"model {card.get('from')}, defense {name}, seed {card.get('seed')}"
        raise UserError(
            f"--output: {output}: holds the model of {told}, which would be lost: model, data, seed or settings "
            "differ; name another folder"
        )
    return place


def run_of(model: inputs.Model, settings: Any, seed: int) -> dict[str, Any]:
    """Return what card.json says of a run, and what tells it from others before its data are read."""
    origin = inputs.shown(model, "a model")
    return {"kind": "defended", "from": origin, "seed": seed, "settings": settings.model_dump(mode="json")}


def assigned(settings: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """Return settings with the values of `KEY=VALUE` words; a dot in a key opens a group, values are YAML.

    Raises:
        UserError: a word has no `=`, its value is not YAML or repeats a key, or a group of its key has a plain value.
    """
    settings = dict(settings)
    for word in words:
        key, mark, text = word.partition("=")
        if not mark or not key:
            raise UserError(f"--set: {word!r} should be KEY=VALUE, such as training.epochs=5")
        try:
            value = yaml.load(text, UniqueKeys)
        except yaml.YAMLError as error:
            reason = f" ({error.problem})" if isinstance(error, yaml.constructor.ConstructorError) else ""
            raise UserError(f"--set: {word!r}: the value is not valid YAML{reason}") from None
        *groups, last = key.split(".")
        place = settings
        for group in groups:
            held = place.get(group)
            if held is not None and not isinstance(held, Mapping):
                raise UserError(f"--set: {word!r}: {group} is {held!r} already; should be a group of settings")
            place[group] = dict(held or {})
            place = place[group]
        # YAML 1.1 reads 1e-5, without a dot, as text.
        place[last] = _number(value) if isinstance(value, str) else value
    return settings


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def granted_to(kind: type[Defense], granted: Mapping[str, DefenseData | str], name: str) -> DefenseData:
    """Return the data of a defense.

    Raises:
        UserError: data are missing, or the level of access exists in a study alone.
    """
    data = granted[kind.access]
    if isinstance(data, str):
        if kind.access in NEEDED:
            option, what = NEEDED[kind.access]
            raise UserError(f"{option}: is missing; {name} needs {what}")
        raise UserError(f"{name}: {data}")
    return data


def save(place: Path, made: Mapping[str, Any], clip: Clip, done: Any, work: Work) -> None:
    """Write the model folder with its card and its training log."""
    from antidote.clip.folder import adapter_facts, save_model

    card = {
        **made,
        "backdoored": None,
        "statement": f"Defended by {made['settings']['method']!r}. The model it was made from is suspicious; what is "
        "left of a backdoor was not measured.",
    }
    if done.evidence:
        card["evidence"] = done.evidence
    log = work.folder / TRAINING_LOG
    card.update(adapter_facts(done.clip))
    save_model(place, clip, card, extra=[*([log] if log.is_file() else []), *done.files])
