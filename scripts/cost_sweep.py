"""What a sweep of many small networks costs on GPUs, from measured rates: the table of docs/guide/clusters.md.

    python scripts/cost_sweep.py [--rate 1.76e6] [--start 16.8]

Arithmetic only, nothing is trained. The jobs train in stacks, each stack is one job of an engine, and a GPU trains one
stack after another.
"""

from __future__ import annotations

import argparse

# Training images a second of one H100, summed over the members of a stack, in tf32: LeNet with bn, batches of 256, 64
# members in one CUDA graph. Measured on 2026-11-27; docs/performance.md has it, and faster ones.
RATE = 1.76e6
# Seconds that such a stack takes beside its steps, from the command to the result: imports, data, first kernels, graph,
# three evaluations. Measured the same day: 19.2 s for the whole command, of which the steps take 2.4 s.
START_S = 16.8
STACK = 64


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=3 * 60_000, help="training images of a job, all epochs together")
    parser.add_argument("--rate", type=float, default=RATE, help="images a second of a stack on one GPU")
    parser.add_argument("--start", type=float, default=START_S, help="seconds of a stack beside its steps")
    parser.add_argument("--stack", type=int, default=STACK, help="members of a stack")
    given = parser.parse_args()
    stacks = -(-given.jobs // given.stack)
    steps_s = given.stack * given.images / given.rate
    print(f"{stacks} stacks; a stack takes {steps_s + given.start:.1f} s, of which its steps take {steps_s:.1f} s\n")
    print("| GPUs | stacks on each | minutes | of which steps |\n| --- | --- | --- | --- |")
    for gpus in (1, 8, 64):
        rounds = -(-stacks // gpus)
        minutes = [rounds * seconds / 60 for seconds in (steps_s + given.start, steps_s)]
        print(f"| {gpus} | {rounds} | {minutes[0]:.1f} | {minutes[1]:.1f} |")


if __name__ == "__main__":
    main()
