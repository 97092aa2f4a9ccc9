"""What computes a step: the functions of a stack, and kernels of bnexp's own.

Read the files in this order: ``rules`` (the functions of a stack), ``own_kernels`` (where bnexp's own run, and how
times choose), ``member_convolutions`` (``packed_convolution`` or ``own_convolution``), ``member_norms`` (torch's batch
norm or ``own_batch_norm``), ``short_maps`` (maps in 16 bits), ``own_updates`` (the rules of optimizers).
``triton_maps``, ``triton_convolutions`` and ``triton_updates`` alone know Triton.
"""
