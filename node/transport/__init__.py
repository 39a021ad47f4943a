"""The wire: how messages become bytes and how bytes reach a peer. The only room of gRPC and protobuf.

``codec`` needs neither of them and can be imported without their being loaded.
"""
