"""Models, data sets, partitions, training and evaluation: the only room of torch.

``config``, ``partition`` and ``datasets`` can be imported without torch being loaded; nothing is re-
exported here so that it stays so.
"""
