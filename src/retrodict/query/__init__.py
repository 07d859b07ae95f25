"""Queries: a question in names becomes roles and values per token, in one place."""

from retrodict.query._draws import ENOUGH as ENOUGH
from retrodict.query._draws import ResampledDraws as ResampledDraws
from retrodict.query._draws import ResampledTokens as ResampledTokens
from retrodict.query._parse import NOTHING_LEFT as NOTHING_LEFT
from retrodict.query._parse import ONE_OBSERVATION as ONE_OBSERVATION
from retrodict.query._parse import element_masks as element_masks
from retrodict.query._parse import parse as parse
from retrodict.query._parse import parse_values as parse_values
from retrodict.query._parse_sites import observation_of as observation_of
from retrodict.query._parse_sites import parse_sites as parse_sites
from retrodict.query._query import Query as Query
from retrodict.query._sites import SiteQuery as SiteQuery
from retrodict.query.family import Shares as Shares
from retrodict.query.family import distance as distance
from retrodict.query.family import shares_of as shares_of
from retrodict.query.family import words as words
from retrodict.query.interval import Interval as Interval
from retrodict.query.tokens import Batch as Batch
from retrodict.query.tokens import as_numbers as as_numbers
from retrodict.query.tokens import count as count
from retrodict.query.tokens import elements as elements
from retrodict.query.tokens import flatten as flatten
from retrodict.query.tokens import unflatten as unflatten
