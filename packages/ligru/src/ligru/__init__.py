"""Li-GRU and SLi-GRU"""
from . import _ops
