"""Dependencies between elements, and the attention masks that follow from them."""

from retrodict.problem.dependencies._declared import Dependencies as Dependencies
from retrodict.problem.dependencies._masks import Edges as Edges
from retrodict.problem.dependencies._masks import Graph as Graph
from retrodict.problem.dependencies._masks import Kind as Kind
from retrodict.problem.dependencies._masks import directed as directed
from retrodict.problem.dependencies._masks import undirected as undirected
