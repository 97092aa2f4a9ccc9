"""Training: takes members and batches, yields records.

Read the files in this order: ``population`` (M models of one architecture, with all parameters in one matrix), ``step``
and ``loop``, ``optim``, ``schedule`` and ``precision`` (how a step computes), ``evaluation`` (measures the
members), ``statistics``, ``ema``, ``ema_weights`` and ``entropy`` (what they are measured with), ``trainable`` (which
parameters learn), ``autoencoder`` (pre-training).

What a step runs by: ``kernels`` (the functions of a stack), ``member_convolutions`` and ``member_norms`` (which of
``packed_convolution`` and ``own_convolution``, of torch's batch norm and ``own_vectors`` a layer takes),
``own_kernels`` (where bnexp's own run), ``own_updates`` (those of optimizers), ``short_maps`` (those of maps in 16
bits), and ``triton_kernels``, ``triton_convolutions`` and ``triton_updates``, which alone know Triton.
"""
