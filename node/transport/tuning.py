"""gRPC's own settings, in one place: buffers, sizes, threads, and what is switched off.

What gRPC can limit and what it cannot, for the bound on bytes in flight: HTTP/2 flow control lets a sender run ahead
of the reading application by the lookahead window, and a completed write may lie in the sender's write buffer. Both
are set here. Beyond them lie the two kernels' socket buffers, which gRPC does not let us set for sending; Linux
sizes them by itself (``net.ipv4.tcp_wmem``, ``tcp_rmem``). None of this carries the promise: that is the window,
which counts a message from the moment it leaves the outbox until its receipt, wherever it lies between. These
settings keep what is within the window from lying where it cannot be taken back for longer than the link takes.
"""

from typing import TypeAlias

Options: TypeAlias = list[tuple[str, int]]

HTTP2_WINDOW_BYTES_MIN = 1 << 20
"""HTTP/2's default; gRPC does not go below it."""
HTTP2_WINDOW_BYTES_MAX = 16 * 2**20
HTTP2_FRAME_BYTES = 1 << 20
"""Larger than a fragment, so that one is a single DATA frame where the default of 16 KiB would make three."""

OVERSIZE = 4
"""How many times too long a message may be and still be received, to be rejected."""
ENVELOPE_BYTES = 131_072
"""An envelope takes frames that wait until they are together as long as this; it is longer by less than one frame."""
CONTROL_BYTES_MAX = 65_536
"""Longest receipt or greeting that is taken."""


def server_options(frame_bytes_max: int, window_bytes: int) -> Options:
    """For a node's server.

    Args:
        frame_bytes_max: Longest frame that can pass.
        window_bytes: How far one stream may run ahead of the reader, bytes.
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
    ]
