# reference: compute the reference of a test line from its real cells, for all models.
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
        de=f"{paths.REFERENCE}/real_de.parquet",
        pseudobulk=f"{paths.REFERENCE}/pseudobulk.parquet",
        floor=f"{paths.REFERENCE}/floor.csv",
        mean=f"{paths.REFERENCE}/mean_response.csv",
        duplicate=f"{paths.REFERENCE}/interpolated_duplicate.csv",
        ceiling=f"{paths.REFERENCE}/ceiling.csv",
        bandwidths=f"{paths.REFERENCE}/bandwidths.json",
        record=f"{paths.REFERENCE}/record.json",
    log:
        "logs/{dataset}/{split}/reference/{cell_line}.log",
    benchmark:
        f"{paths.SPLIT}/benchmarks/reference.{{cell_line}}.tsv"
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
            str(paths.reference_dir(dataset, split, line) / "floor.csv")
            for dataset, split in sorted({(run.dataset, run.split) for run in RUNS})
            for line in test_lines(dataset, split)
        ],
    localrule: True
