"""What holds for every process that tests."""

import os

os.environ.setdefault("CI", "1")  # as users' own runners have it: torch.compile is stricter there, from torch's import on

import torch

# Workers of pytest-xdist share the cores: with as many threads as cores in each, they wait for one another half of the time.
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, torch.get_num_threads() // workers))
