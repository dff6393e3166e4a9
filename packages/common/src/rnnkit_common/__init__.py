"""What the rnnkit packages share when they are built and tested; none of them needs it at run time.

rnnkit_common.build     compiles a package's extension
rnnkit_common.include   C++ and CUDA headers: scan engines, vector mathematics, kernel launch, emulation
rnnkit_common.testing   what the tests and benchmarks use (`pip install rnnkit-common[testing]`)
"""

__version__ = "0.1.0"
