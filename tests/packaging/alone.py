"""Imports one package and runs its forward and backward once: python alone.py NAME."""

import sys

import torch

EXAMPLES = {
    "ligru": lambda m: m.SLiGRU(4, (2, 50, 3), num_layers=2, bidirectional=True)(torch.randn(2, 50, 3))[0],
    "mingru": lambda m: m.MinGRU(3, 4, num_layers=2)(torch.randn(2, 50, 3))[0],
    "rnnt_loss": lambda m: m.rnnt_loss_fused(
        torch.randn(2, 9, 6, requires_grad=True),
        torch.randn(2, 4, 6),
        torch.nn.Linear(6, 5),
        torch.ones(2, 3, dtype=torch.int64),
        0,
    ),
    "sru": lambda m: m.SRU(3, 4, bidirectional=True)(torch.randn(50, 2, 3))[0],
    "qrnn": lambda m: m.QRNN(3, 4, num_layers=2, window=2)(torch.randn(50, 2, 3))[0],
}

if __name__ == "__main__":
    name = sys.argv[1]
    module = __import__(name)
    EXAMPLES[name](module).sum().backward()
    assert "rnnkit_common" not in sys.modules
    assert "torch._dynamo" not in sys.modules  # importing it takes seconds
    print(f"{name} {module.__version__} from {module.__file__} works with torch {torch.__version__}")
