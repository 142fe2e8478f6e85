"""Window -> FlowGraph: hosts, channels, edges and the features of each."""

from thalweg.graph.adjacency import Adjacency, neighbours, undirected
from thalweg.graph.attributes import AttributeScaling
from thalweg.graph.familiarity import Familiarity, flow_keys
from thalweg.graph.flowgraph import FlowGraph, HostTable, build_graph, collapse, index_hosts, octet_features
from thalweg.graph.hosts import (
    PrefixVocabulary,
    activity,
    channel_features,
    channel_sums,
    converge,
    host_keys,
    mean_and_spread,
    octet_levels,
)

__all__ = [
    "Adjacency",
    "AttributeScaling",
    "Familiarity",
    "FlowGraph",
    "HostTable",
    "PrefixVocabulary",
    "activity",
    "build_graph",
    "channel_features",
    "channel_sums",
    "collapse",
    "converge",
    "flow_keys",
    "host_keys",
    "index_hosts",
    "mean_and_spread",
    "neighbours",
    "octet_features",
    "octet_levels",
    "undirected",
]
