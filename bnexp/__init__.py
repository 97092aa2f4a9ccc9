"""bnexp: a command-line laboratory for normalization in neural networks.

In which order to read: ``config`` (every setting), ``norms`` and ``models`` (what is compared), ``population`` and
``training`` (the loop), ``probes`` (what is watched inside it), ``building`` and ``experiment`` (from a config to a run
folder), ``claims`` (what is said about normalization, declared in configs/claim, tried by sweeps, judged by one
protocol), ``cli`` (the words on the command line). Imports point one way, from ``cli`` down; ``tests/test_floors.py``
keeps it so.

Shape suffixes of tensor names: M members of a population, B batch, N all samples of a split, C channels, H and W
height and width, K classes, P all parameters of a member.
"""

__version__ = "0.1.0"
