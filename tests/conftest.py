"""Workers of pytest-xdist share the cores: with as many threads as cores in each, they wait for one another half of the time."""

import os

import torch

workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, torch.get_num_threads() // workers))
