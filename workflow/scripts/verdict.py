"""Rule verdict: does a model beat the best baseline?"""

from statetx import stages
from statetx.config import load

if __name__ == "__main__":
    with stages.job(snakemake.log[0]):
        stages.verdict(load(dict(snakemake.config)), snakemake.wildcards.experiment)
