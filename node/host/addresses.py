"""Addresses as text."""


def host_and_port(host: str, port: int) -> str:
    """Return an address as gRPC takes it, host:port. An IPv6 address comes into brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
