"""Public name of the rank-sum tests: ``statetx.evaluation.de.rank_sum``."""

from statetx.evaluation.numerics.rank_sum import RankSum as RankSum
from statetx.evaluation.numerics.rank_sum import rank_sum as rank_sum
