"""The words on the command line: ``main`` finds the command, and each command is one file.

``hydra_plugins`` is Hydra's part of a sweep; with ``config/compose`` the only place that knows Hydra.
"""
