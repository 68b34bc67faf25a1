"""Rule survey: what the source files hold together; checks before any work."""

from pathlib import Path

from statetx.data.room import check_room
from statetx.data.survey import declared, survey
from statetx.jobs import job, packing

if __name__ == "__main__":
    with job(snakemake.log[0]), packing(Path(snakemake.output.survey).parents[1]):
        params, files = snakemake.params, snakemake.input.cells
        settings, out = declared(params.settings), snakemake.output.survey
        found = survey(files, settings, params.dataset)
        check_room(files, settings, Path(out).parents[1])
        found.write(out)
