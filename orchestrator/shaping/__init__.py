"""Shaping of real links in the kernel: from a network plan to disciplines, classes and filters, and back.

Pure: :mod:`~orchestrator.shaping.node_shaping` (what a node's namespace must hold),
:mod:`~orchestrator.shaping.batch` (the commands that bring it about), :mod:`~orchestrator.shaping.reading` (what tc
prints), :mod:`~orchestrator.shaping.differences` (the comparison). With the kernel:
:mod:`~orchestrator.shaping.backend`, :mod:`~orchestrator.shaping.probe`. What the tree looks like and why stands in
:mod:`orchestrator.shaping.tree`.
"""
