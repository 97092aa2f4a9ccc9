"""The sections of ``scripts/gpu.py``: what is checked and measured on a machine with one GPU."""
