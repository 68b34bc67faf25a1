"""Rule scatter: one source file, dealt out by cell line."""

from statetx.data.scatter import scatter
from statetx.data.survey import Survey, declared
from statetx.jobs import job

if __name__ == "__main__":
    with job(snakemake.log[0]):
        survey = Survey.read(snakemake.input.survey)
        number = int(snakemake.wildcards.part)
        scatter(survey, number, declared(snakemake.params.settings), snakemake.output.part)
