"""Training: takes members and batches, yields records.

Read the files in this order: ``population`` (M models of one architecture, with all parameters in one matrix) with
``rows`` (between that matrix and the kernels of a stack), ``step`` and ``loop``, ``losses``, ``optim``, ``schedule``,
``precision`` and ``compiled`` (how a step computes), ``copies`` (that the training does not wait for), ``evaluation``
(measures the members) with ``passes`` (over the images), ``statistics``, ``ema``, ``ema_weights`` and ``entropy`` (what
they are measured with), ``trainable`` (which parameters learn), ``autoencoder`` (pre-training).

How the functions of a step are computed, in a stack and on a GPU, is in the folder ``kernels``.
"""
