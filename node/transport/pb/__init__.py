"""Generated from protos/fragmesh/v1 by ``make protos``; not edited by hand."""
