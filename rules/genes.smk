# genes: highly variable genes, chosen on the training cells of a split.
#
# Required input: the plan and the store
# Output:         results/{dataset}/{split}/genes/{n}.txt
#
# Made only for splits on which a model asks for it (`genes: {n_hvg: …}`); all models on such a split are
# trained and scored in these genes.


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
