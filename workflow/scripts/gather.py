"""Rule gather: the cells of one line, sorted."""

from statetx.data.gather import gather
from statetx.data.survey import Survey, declared
from statetx.jobs import job, recorded
from statetx.stages import raw_line
from statetx.steps import Step

if __name__ == "__main__":
    with job(snakemake.log[0]), recorded(Step.from_job("pack", snakemake)):
        survey, line = Survey.read(snakemake.input.survey), raw_line(snakemake.wildcards.cell_line)
        settings = declared(snakemake.params.settings)
        gather(survey, snakemake.input.parts, line, settings, snakemake.output.cells)
