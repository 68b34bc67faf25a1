# simulate, pack: pack source files into the store, by an external sort.
#
# Required input: the h5ad files of a data set (read only), or the settings of the simulation
# Steps:          compare_<d>: check whether files that changed or moved contain other cells than
#                 were packed; as a checkpoint, it reruns nothing if they do not
#                 survey_<d>: read headers, check the files and the disk space
#                 scatter_<d>: one job per source file
#                 gather_<d>: one job per cell line
#                 pack_<d>: write the files that all cell lines share
# Output:         results/{dataset}/pack/{cell_line}.h5ad, conditions.parquet, sources.json,
#                 manifest.json
#
# Parts are temporary. Every step has the parameters of all steps, so that a changed parameter packs
# again although the parts do not exist any more.


for name in CFG.datasets:
    if CFG.datasets[name].files == "simulate":

        rule:
            name:
                f"simulate_{name}"
            output:
                cells=SOURCES[name],
                truth=f"{paths.made(paths.SIMULATED, dataset=name)}/truth.parquet",
                record=f"{paths.made(paths.SIMULATED, dataset=name)}/record.json",
            log:
                f"logs/{name}/simulate.log",
            benchmark:
                f"{paths.RESULTS}/{name}/benchmarks/simulate.tsv"
            conda:
                "../envs/statetx.yaml"
            resources:
                mem_mb=4000,
                runtime=30,
            params:
                **parameters.simulate_params(CFG, name),
            script:
                "../workflow/scripts/simulate.py"

    else:

        checkpoint:
            name:
                f"compare_{name}"
            output:
                content=f"{paths.pack_dir(name)}/content.json",
            log:
                f"logs/{name}/pack/compare.log",
            benchmark:
                f"{paths.RESULTS}/{name}/benchmarks/pack.compare.tsv"
            conda:
                "../envs/statetx.yaml"
            resources:
                mem_mb=4000,
                runtime=240,
            params:
                dataset=name,
            script:
                "../workflow/scripts/compare.py"

    rule:
        name:
            f"survey_{name}"
        input:
            origin=origin_of(name),
        output:
            survey=temp(f"{paths.pack_dir(name)}/parts/survey.json"),
        log:
            f"logs/{name}/pack/survey.log",
        benchmark:
            f"{paths.RESULTS}/{name}/benchmarks/pack.survey.tsv"
        conda:
            "../envs/statetx.yaml"
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            **PACK[name],
            dataset=name,
        script:
            "../workflow/scripts/survey.py"

    rule:
        name:
            f"scatter_{name}"
        input:
            origin=origin_of(name),
            survey=f"{paths.pack_dir(name)}/parts/survey.json",
        output:
            part=temp(directory(f"{paths.pack_dir(name)}/parts/{{part}}")),
        log:
            f"logs/{name}/pack/scatter.{{part}}.log",
        benchmark:
            f"{paths.RESULTS}/{name}/benchmarks/pack.scatter.{{part}}.tsv"
        wildcard_constraints:
            part=r"\d\d\d\d+",
        conda:
            "../envs/statetx.yaml"
        resources:
            mem_mb=4000,
            runtime=240,
        params:
            **PACK[name],
        script:
            "../workflow/scripts/scatter.py"

    rule:
        name:
            f"gather_{name}"
        input:
            origin=origin_of(name),
            survey=f"{paths.pack_dir(name)}/parts/survey.json",
            parts=part_dirs(name),
        output:
            cells=f"{paths.pack_dir(name)}/{{cell_line}}.h5ad",
            record=f"{paths.pack_dir(name)}/{{cell_line}}.h5ad.record.json",
        log:
            f"logs/{name}/pack/gather.{{cell_line}}.log",
        benchmark:
            f"{paths.RESULTS}/{name}/benchmarks/pack.gather.{{cell_line}}.tsv"
        conda:
            "../envs/statetx.yaml"
        resources:
            mem_mb=4000,
            runtime=120,
        params:
            **PACK[name],
        script:
            "../workflow/scripts/gather.py"

    rule:
        name:
            f"pack_{name}"
        input:
            origin=origin_of(name),
            survey=f"{paths.pack_dir(name)}/parts/survey.json",
            parts=part_dirs(name),
            lines=[
                f"{paths.pack_dir(name)}/{file_name(line)}.h5ad"
                for line in LINES[name]
            ],
        output:
            conditions=f"{paths.pack_dir(name)}/conditions.parquet",
            sources=f"{paths.pack_dir(name)}/sources.json",
            manifest=f"{paths.pack_dir(name)}/manifest.json",
            record=f"{paths.pack_dir(name)}/manifest.json.record.json",
        log:
            f"logs/{name}/pack/pack.log",
        benchmark:
            f"{paths.RESULTS}/{name}/benchmarks/pack.tsv"
        conda:
            "../envs/statetx.yaml"
        resources:
            mem_mb=4000,
            runtime=30,
        params:
            **PACK[name],
        script:
            "../workflow/scripts/pack.py"


rule pack_all:
    input:
        [f"{paths.pack_dir(name)}/manifest.json" for name in CFG.datasets],
    localrule: True


rule simulate_all:
    input:
        [
            f"{paths.made(paths.SIMULATED, dataset=name)}/truth.parquet"
            for name in CFG.datasets
            if CFG.datasets[name].files == "simulate"
        ],
    localrule: True
