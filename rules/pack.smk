# simulate, pack: from source files to the store.
#
# Required input: the h5ad files of a data set (read only), or the settings of the simulation
# Output:         results/{dataset}/pack/{cell_line}.h5ad, conditions.parquet, manifest.json


for name in CFG.datasets:
    if CFG.datasets[name].files == "simulate":

        rule:
            name:
                f"simulate_{name}"
            output:
                cells=SOURCES[name],
                truth=f"results/{name}/simulate/truth.parquet",
            log:
                f"logs/{name}/simulate.log",
            benchmark:
                f"results/{name}/benchmarks/simulate.tsv"
            conda:
                "../envs/statetx.yaml"
            resources:
                mem_mb=4000,
                runtime=30,
            params:
                **stages.simulate_params(CFG, name),
            script:
                "../workflow/scripts/simulate.py"

    rule:
        name:
            f"pack_{name}"
        input:
            cells=(
                SOURCES[name]
                if CFG.datasets[name].files == "simulate"
                else ancient(SOURCES[name])
            ),
        output:
            cells=[
                f"results/{name}/pack/{file_name(line)}.h5ad" for line in LINES[name]
            ],
            conditions=f"results/{name}/pack/conditions.parquet",
            manifest=f"results/{name}/pack/manifest.json",
        log:
            f"logs/{name}/pack.log",
        benchmark:
            f"results/{name}/benchmarks/pack.tsv"
        conda:
            "../envs/statetx.yaml"
        resources:
            mem_mb=8000,
            runtime=120,
        params:
            **PACK[name],
            dataset=name,
        script:
            "../workflow/scripts/pack.py"


rule pack_all:
    input:
        [f"results/{name}/pack/manifest.json" for name in CFG.datasets],
    localrule: True


rule simulate_all:
    input:
        [
            f"results/{name}/simulate/truth.parquet"
            for name in CFG.datasets
            if CFG.datasets[name].files == "simulate"
        ],
    localrule: True
