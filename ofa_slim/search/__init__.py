"""Searching a trained supernet for the best sub-network within a budget."""

from ofa_slim.search.budget import Budget
from ofa_slim.search.config import SearchConfig, stratified
from ofa_slim.search.result import Point, SearchResult, Winner

__all__ = ["Budget", "Point", "SearchConfig", "SearchResult", "Winner", "stratified"]
