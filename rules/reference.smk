# reference: what the real cells of a test line say, once for all models.
#
# Required input: the plan and the store
# Output:         results/{dataset}/{split}/reference/{cell_line}/: real DE, pseudobulks, floor,
#                 mean response, interpolated duplicate, ceiling, bandwidths


rule reference:
    input:
        plan=plan_of,
        genes=genes_of,
        store=store_files,
    output:
        de="results/{dataset}/{split}/reference/{cell_line}/real_de.parquet",
        pseudobulk="results/{dataset}/{split}/reference/{cell_line}/pseudobulk.parquet",
        floor="results/{dataset}/{split}/reference/{cell_line}/floor.csv",
        mean="results/{dataset}/{split}/reference/{cell_line}/mean_response.csv",
        duplicate="results/{dataset}/{split}/reference/{cell_line}/interpolated_duplicate.csv",
        ceiling="results/{dataset}/{split}/reference/{cell_line}/ceiling.csv",
        bandwidths="results/{dataset}/{split}/reference/{cell_line}/bandwidths.json",
        record="results/{dataset}/{split}/reference/{cell_line}/record.json",
    log:
        "logs/{dataset}/{split}/reference/{cell_line}.log",
    benchmark:
        "results/{dataset}/{split}/benchmarks/reference.{cell_line}.tsv"
    conda:
        "../envs/statetx.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        **parameters.reference_params(CFG),
    script:
        "../workflow/scripts/reference.py"


rule reference_all:
    input:
        lambda wildcards: [
            f"results/{dataset}/{split}/reference/{line}/floor.csv"
            for dataset, split in sorted({(run.dataset, run.split) for run in RUNS})
            for line in test_lines(dataset, split)
        ],
    localrule: True
