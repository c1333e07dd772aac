# Antidote: data -> trigger -> poisoned pairs -> backdoored CLIP -> defended CLIP -> zero-shot scores -> tables and plots.
#
#   snakemake --cores all                                   the default study (config.yaml)
#   snakemake --cores all --configfile configs/NAME.yaml    another study; it stands alone
#   snakemake --cores all -- results/default/badnet/seed0/cleanclip/scores.json      one cell and what it needs
from snakemake.utils import min_version

min_version("9.0")


# Snakemake merges config files key by key; a study given on the command line must not inherit the default one.
if not workflow.config_settings.configfiles:

    configfile: f"{workflow.basedir}/config.yaml"


# With `--sdm apptainer` alone: the image that `make image` builds from the lock.
container: "antidote.sif"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/poison.smk"
include: "rules/pretrain.smk"
include: "rules/few_shot.smk"
include: "rules/defend.smk"
include: "rules/evaluate.smk"
include: "rules/detect.smk"
include: "rules/report.smk"
include: "rules/resources.smk"


# Jobs on this machine are forks of one process that has imported the large packages.
onstart:
    if workflow.is_main_process and workflow.local_exec and not workflow.deployment_settings.deployment_method:
        warm.start()


rule all:
    default_target: True
    input:
        rules.summary.output,


rule models:
    """Every model of the study, without scores."""
    input:
        jobs.all_of("backdoored_model", "weights"),
        jobs.all_of("defend", "weights"),


rule clean_references:
    """The clean reference models and their accuracy: what to look at first in a new study."""
    input:
        jobs.all_of("evaluate_clean", "scores"),
