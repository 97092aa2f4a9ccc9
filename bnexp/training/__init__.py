"""Training: takes members and batches, yields records.

Read the files in this order: ``population`` (M models of one architecture, with all parameters in one matrix), ``step``
and ``loop``, ``optim``, ``schedule`` and ``precision`` (how a step computes), ``evaluation``, ``ema`` and
``ema_weights`` (measure the members), ``trainable`` (which parameters learn), ``autoencoder`` (pre-training).
"""
