"""Training: takes members and batches, yields records.

Read the files in this order: ``population`` (M models of one architecture, with all parameters in one matrix), ``step``
and ``loop``, ``optim``, ``schedule`` and ``precision`` (how a step computes), ``evaluation`` (measures the
members), ``statistics``, ``ema``, ``ema_weights`` and ``entropy`` (what they are measured with), ``trainable`` (which
parameters learn), ``autoencoder`` (pre-training).

How the functions of a step are computed, in a stack and on a GPU, is in the folder ``kernels``.
"""
