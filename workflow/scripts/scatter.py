"""Rule scatter: distribute the cells of one source file by cell line."""

from pathlib import Path

from statetx.data.pack.scatter import scatter
from statetx.data.pack.survey import Survey, declared
from statetx.stages.jobs import job, packing

if __name__ == "__main__":
    with job(snakemake.log[0]), packing(Path(snakemake.output.part).parents[1]):
        survey = Survey.read(snakemake.input.survey)
        number = int(snakemake.wildcards.part)
        scatter(survey, number, declared(snakemake.params.settings), snakemake.output.part)
