"""The registry: one line per method, with the class that implements it. Methods are listed nowhere else."""

from functools import cache
from importlib import import_module

from antidote.base.errors import UserError, nearest

ATTACKS = {
    "badnet": "antidote.attacks.badnet:BadNet",
    "blended": "antidote.attacks.blended:Blended",
    "sig": "antidote.attacks.sig:SIG",
    "label_consistent": "antidote.attacks.label_consistent:LabelConsistent",
    "label_consistent_pgd": "antidote.attacks.label_consistent_pgd:LabelConsistentPGD",
    "siba": "antidote.attacks.siba:SIBA",
    "badclip": "antidote.attacks.badclip:BadCLIP",
    "issba": "antidote.attacks.issba:ISSBA",
    "attention": "antidote.attacks.attention:Attention",
    "trojvqa": "antidote.attacks.trojvqa:TrojVQA",
    "wanet": "antidote.attacks.wanet:WaNet",
    "mmpoison": "antidote.attacks.mmpoison:MmPoison",
    "carlini_terzis": "antidote.attacks.carlini_terzis:CarliniTerzis",
    "badencoder": "antidote.attacks.badencoder:BadEncoder",
    "maba": "antidote.attacks.maba:MABA",
    "adaptive_blend": "antidote.attacks.adaptive_blend:AdaptiveBlend",
    "flba": "antidote.attacks.flba:FLBA",
}

DEFENSES = {
    "none": "antidote.defenses.none:NoDefense",
    "finetune": "antidote.defenses.finetune:FineTune",
    "cleanclip": "antidote.defenses.cleanclip:CleanCLIP",
    "ta_cleaner": "antidote.defenses.ta_cleaner:TACleaner",
    "par": "antidote.defenses.par:PAR",
    "linear_probe": "antidote.defenses.linear_probe:LinearProbe",
    "supervised": "antidote.defenses.supervised:Supervised",
    "rvpt": "antidote.defenses.rvpt:RVPT",
    "cbpt": "antidote.defenses.cbpt:CBPT",
    "ubt": "antidote.defenses.ubt:UBT",
    "ubt_oracle": "antidote.defenses.ubt:UBTOracle",
    "beear_clip": "antidote.defenses.beear_clip:BEEAR",
    "imbert_clip": "antidote.defenses.imbert_clip:IMBERT",
    "invertune": "antidote.defenses.invertune:InverTune",
}

DETECTORS = {
    "random": "antidote.detectors.controls:Random",
    "oracle": "antidote.detectors.controls:Oracle",
    "ubt": "antidote.detectors.ubt:UBT",
    "dao": "antidote.detectors.dao:DAO",
    "slof": "antidote.detectors.slof:SLOF",
    "k_distance": "antidote.detectors.k_distance:KDistance",
    "lid": "antidote.detectors.lid:LID",
    "isolation_forest": "antidote.detectors.isolation_forest:IsolationForest",
    "clip_score": "antidote.detectors.clip_score:CLIPScore",
    "spectral": "antidote.detectors.spectral:Spectral",
    "decree": "antidote.detectors.decree:Decree",
    "patch_places": "antidote.detectors.patch_places:PatchPlaces",
    "seer": "antidote.detectors.seer:SEER",
    "neural_cleanse": "antidote.detectors.neural_cleanse:NeuralCleanse",
    "ssl_cleanse": "antidote.detectors.ssl_cleanse:SSLCleanse",
    "max_margin": "antidote.detectors.max_margin:MaxMargin",
    "amdet": "antidote.detectors.amdet:Amdet",
    "clean_clip_score": "antidote.detectors.clean_clip_score:CleanCLIPScore",
    "cascade": "antidote.detectors.cascade:Cascade",
    "abl": "antidote.detectors.abl:ABL",
    "cognitive_distillation": "antidote.detectors.cognitive_distillation:CognitiveDistillation",
    "strip": "antidote.detectors.strip:STRIP",
    "sentinet": "antidote.detectors.sentinet:SentiNet",
    "scale_up": "antidote.detectors.scale_up:ScaleUp",
    "bdetclip": "antidote.detectors.bdetclip:BDetCLIP",
    "subspace": "antidote.detectors.subspace:Subspace",
    "backdoor_ids": "antidote.detectors.backdoor_ids:BackdoorIDS",
    "clipguard": "antidote.detectors.clipguard:CLIPGuard",
    "dede": "antidote.detectors.dede:DeDe",
    "imbert_salience": "antidote.detectors.imbert_salience:IMBERTSalience",
}

ADAPTERS = {
    "classifier_head": "antidote.clip.classifier_head:ClassifierHead",
    "few_shot_head": "antidote.clip.few_shot_head:FewShotHead",
    "visual_prompts": "antidote.clip.visual_prompts:VisualPrompts",
    "patch_masking": "antidote.clip.patch_masking:PatchMasking",
}

SOURCES = {
    "scenes": "antidote.data.sources.scenes:Scenes",
    "shifted_scenes": "antidote.data.sources.shifted_scenes:ShiftedScenes",
    "table": "antidote.data.sources.table:Table",
    "webdataset": "antidote.data.sources.webdataset:WebDataset",
    "url_table": "antidote.data.sources.url_table:UrlTable",
    "folder": "antidote.data.sources.folder:Folder",
    "restyled_folder": "antidote.data.sources.restyled_folder:RestyledFolder",
    "karpathy": "antidote.data.sources.karpathy:Karpathy",
    "torchvision": "antidote.data.sources.torchvision:Torchvision",
}

AXES = ("attack", "defense", "detector")  # kinds of entries that a study has
KINDS = {"source": SOURCES, "attack": ATTACKS, "defense": DEFENSES, "detector": DETECTORS, "adapter": ADAPTERS}


def method(kind: str, name: str) -> type:
    """Return the class of a method, as in `method("attack", "badnet")`.

    Raises:
        UserError: no method of this kind has this name.
    """
    table = KINDS[kind]
    if name not in table:
        raise UserError(f"unknown {kind} method {name!r}{nearest(name, table)}")
    return _found(table[name])


@cache  # the rules of a study look up a method many times per job
def _found(place: str) -> type:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def module(kind: str, name: str) -> str:
    """Return the module that defines a method, for the fingerprint."""
    return KINDS[kind][name].partition(":")[0]
