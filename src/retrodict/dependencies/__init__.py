"""Dependencies: what depends on what, and who may therefore look at whom."""

from retrodict.dependencies._declared import Dependencies as Dependencies
from retrodict.dependencies._masks import EXACT as EXACT
from retrodict.dependencies._masks import Edges as Edges
from retrodict.dependencies._masks import Graph as Graph
from retrodict.dependencies._masks import Kind as Kind
from retrodict.dependencies._masks import directed as directed
from retrodict.dependencies._masks import undirected as undirected
