# statetx: from h5ad files to a verdict. `snakemake --cores all` runs the demo in config/config.yaml;
# `--configfile FILE` runs another experiment instead of it.
from snakemake.utils import min_version

min_version("9.20")

if "datasets" not in config:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "rules/common.smk"
include: "rules/pack.smk"
include: "rules/split.smk"
include: "rules/genes.smk"
include: "rules/train.smk"
include: "rules/predict.smk"
include: "rules/reference.smk"
include: "rules/evaluate.smk"
include: "rules/verdict.smk"
include: "rules/prune.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report_all.input,
        rules.prune_all.input,
    localrule: True
