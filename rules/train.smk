# train: train one model on one split with one seed. Baselines are trained in the same way.
#
# Required input: the plan and the store
# Output:         results/{dataset}/{split}/{model}/seed{seed}/model/
#
# The state from which a killed run resumes is in .state/. It is not declared, because Snakemake
# deletes the declared outputs of a failed job. Step checkpoints are next to the model and not
# declared either; rule prune deletes them.


rule train:
    input:
        plan=plan_of,
        genes=genes_of,
        store=store_files,
    output:
        model=directory(paths.MODEL),
    log:
        "logs/{dataset}/{split}/{model}/seed{seed}/train.log",
    benchmark:
        f"{paths.RUN}/benchmarks/train.tsv"
    wildcard_constraints:
        model=one_of(name for name in CFG.models if not CFG.models[name].frozen)
        or "(?!)",
    conda:
        "../envs/statetx.yaml"
    threads: lambda wildcards: 8 * train_gpus(wildcards) or 1
    resources:
        gpu=train_gpus,
        mem_mb=16000,
        runtime=lambda wildcards: 2880 if needs_gpu(wildcards) else 60,
    params:
        settings=lambda wildcards: train_params(wildcards)["settings"],
        code=lambda wildcards: train_params(wildcards)["code"],
        match=match_of,
        kind=kind_of,
    script:
        "../workflow/scripts/train.py"


rule train_all:
    input:
        [str(paths.model_dir(*r)) for r in RUNS],
    localrule: True
