"""Rule report: one page per experiment. It only draws."""

from statetx import stages
from statetx.config import load

if __name__ == "__main__":
    with stages.job(snakemake.log[0]):
        stages.report(load(dict(snakemake.config)), snakemake.wildcards.experiment)
