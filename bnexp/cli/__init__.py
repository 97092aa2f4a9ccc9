"""The words on the command line: ``main`` runs a command of ``commands``, and each command is one file.

``hydra_plugins`` is Hydra's part of a sweep; with ``config/compose`` the only place that knows Hydra. ``board_page`` is
the address and the colours of TensorBoard's page.
"""
