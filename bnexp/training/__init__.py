"""Training: takes members and batches, yields records.

Read the files in this order: ``population`` (M models of one architecture, with all parameters in one matrix), ``step``
and ``loop``, ``optim``, ``schedule`` and ``precision`` (how a step computes), ``evaluation`` (measures the
members), ``statistics``, ``ema``, ``ema_weights`` and ``entropy`` (what they are measured with), ``trainable`` (which
parameters learn), ``autoencoder`` (pre-training).

What a step runs by is in the room ``kernels``.
"""
