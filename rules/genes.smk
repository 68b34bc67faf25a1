# genes: select highly variable genes on the training cells of a split.
#
# Required input: the plan and the store
# Output:         results/{dataset}/{split}/genes/{n}.txt
#
# Runs only for splits on which a model has the setting `genes: {n_hvg: …}`. All models on such a split
# are trained and scored on these genes.


rule genes:
    input:
        plan=plan_of,
        store=store_files,
    output:
        genes=paths.GENES,
        record=f"{paths.GENES}{paths.RECORD}",
    log:
        "logs/{dataset}/{split}/genes.{n}.log",
    benchmark:
        f"{paths.SPLIT}/benchmarks/genes.{{n}}.tsv"
    wildcard_constraints:
        n=r"\d+",
    conda:
        "../envs/statetx.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=CODES["genes"],
    script:
        "../workflow/scripts/genes.py"


rule genes_all:
    input:
        [
            str(path)
            for run in RUNS
            if (path := paths.genes_file(CFG, run.dataset, run.split))
        ],
    localrule: True
