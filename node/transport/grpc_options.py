"""gRPC's own settings, in one place: buffers, sizes, and what is switched off.

Between outbox and receipt a message can lie in the client's queue, in gRPC's write buffer, in two socket buffers, in
the receiver's HTTP/2 window, or in its delay line. gRPC bounds write buffer and HTTP/2 window for each stream, not for
a node, and does not let us set the kernel's send buffer. So none of these carries the promise about bytes in
flight: :class:`node.transport.window.Window` does, which counts a message all the way. What is asked of the buffers
is not to be smaller than that window, or they would slow down what it allows, and not to grow by themselves.

Threads: a node has its own and gRPC's seven or so (four of the event engine on up to four cores, more on larger hosts;
timer, watchdog, and one poller of the completion queue), however many peers it has. gRPC has no setting for them.
"""

from typing import TypeAlias

from node.core.framing import HTTP2_FRAME_BYTES

Options: TypeAlias = list[tuple[str, int]]

HTTP2_WINDOW_BYTES_MIN = 1 << 20
"""For small windows; less would only cost more WINDOW_UPDATE frames."""
HTTP2_WINDOW_BYTES_MAX = 16 << 20
OVERSIZE = 4
"""Multiple of the longest message that is still received, to be rejected."""
ENVELOPE_BYTES = 262_144
"""An envelope takes frames that wait until they are together as long as this; it is longer by less than one frame."""
NEVER_MS = 2**31 - 1
"""gRPC's infinity."""
CONTROL_BYTES_MAX = 65_536
"""Longest receipt or greeting that is taken."""


def server_options(frame_bytes_max: int, window_bytes: int) -> Options:
    """For a node's server.

    Args:
        frame_bytes_max: Longest frame that can pass.
        window_bytes: The bound on bytes in flight.
    """
    return [
        ("grpc.so_reuseport", 0),  # a taken port must be an error, not a shared port
        # What is too long by less than this is received and counted; gRPC ends the stream of what is longer still, and
        # does not tell the server why.
        ("grpc.max_receive_message_length", OVERSIZE * (frame_bytes_max + ENVELOPE_BYTES)),
        *_common(window_bytes),
    ]


def channel_options(window_bytes: int) -> Options:
    """For a node's channel to one peer."""
    return [
        ("grpc.max_send_message_length", -1),  # the receiver decides
        ("grpc.max_receive_message_length", CONTROL_BYTES_MAX),
        ("grpc.enable_retries", 0),  # they would buffer what was sent
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        # Every attempt has a channel of its own, and the back-off between attempts is ours.
        ("grpc.use_local_subchannel_pool", 1),
        *_common(window_bytes),
    ]


def _common(window_bytes: int) -> Options:
    window = min(max(window_bytes, HTTP2_WINDOW_BYTES_MIN), HTTP2_WINDOW_BYTES_MAX)
    return [
        ("grpc.http2.bdp_probe", 0),  # it would grow the windows to what it measures
        ("grpc.http2.lookahead_bytes", window),
        ("grpc.http2.write_buffer_size", window),
        ("grpc.http2.max_frame_size", HTTP2_FRAME_BYTES),
        # Without this gRPC lets the kernel end a server's connection whose receipts are not acknowledged for 20 s
        # (TCP_USER_TIMEOUT), which is no long time behind what is under way on a slow link.
        ("grpc.keepalive_time_ms", NEVER_MS),
    ]
