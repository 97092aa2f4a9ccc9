"""Members and batches in, records out.

In which order to read: ``population`` (M models of one architecture, their parameters in one matrix), ``step`` and
``loop``, ``optim``, ``schedule`` and ``precision`` (how a step computes), ``evaluation`` and ``ema`` (what is
measured), ``trainable`` (which parameters learn), ``autoencoder`` (pre-training).
"""
