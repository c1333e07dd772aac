# Resources by method. In Snakemake, `set-resources` and `set-threads` of a profile apply to rules. Here an entry may
# also name a method and then applies to the jobs of the method: the trigger of an attack, a defense or a detector.
from snakemake.resources import Resource, Resources

from antidote.base.errors import nearest
from antidote.base.registry import ATTACKS, DEFENSES, DETECTORS, KINDS

BY_METHOD = {
    "trigger": ("attack", lambda w: STUDY.attacks[w.attack].method),
    "defend": ("defense", lambda w: STUDY.defenses[w.defense].method),
    "defend_with_finding": ("defense", lambda w: STUDY.defenses[w.defense].method),
    "defend_clean": ("defense", lambda w: STUDY.defenses[w.defense].method),
    "detect": ("detector", lambda w: STUDY.detectors[w.detector].method),
    "detect_clean": ("detector", lambda w: STUDY.detectors[w.detector].method),
    "detect_population": ("detector", lambda w: STUDY.detectors[w.detector].method),
}


def profile_resources():
    """Return the profile's values by rule or method and resource; `_cores` is Snakemake's name for threads."""
    settings = workflow.resource_settings
    said = {name: dict(Resources.from_mapping(values)) for name, values in settings.overwrite_resources.items()}
    for name, threads in settings.overwrite_threads.items():
        value = threads if isinstance(threads, Resource) else Resource("_cores", threads)
        said.setdefault(name, {})["_cores"] = value
    known = {rule.name for rule in workflow.rules} | {*ATTACKS, *DEFENSES, *DETECTORS}
    for name in said:
        if name not in known:
            sys.exit(f"error: profile: {name!r} is neither a rule nor a method{nearest(name, known)}")
    return said


def chosen(name, method_of, by_method, otherwise):
    """Return a resource with the profile's value for the job's method, else with the value of the rule."""

    def value(wildcards, **known):
        resource = by_method.get(method_of(wildcards), {}).get(name, otherwise)
        evaluable = resource is not None and resource.is_evaluable()
        return (resource.evaluate(wildcards, **known) if evaluable else resource or Resource(name, None)).value

    return Resource(name, value)


def set_resources_by_method():
    said = profile_resources()
    for rule, (kind, method_of) in BY_METHOD.items():
        by_method = {name: values for name, values in said.items() if name in KINDS[kind]}
        own = workflow.get_rule(rule).resources
        for name in sorted({name for values in by_method.values() for name in values}):
            own[name] = chosen(name, method_of, by_method, own.get(name))


set_resources_by_method()
