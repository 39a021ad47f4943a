"""The exception tree, split by whose fault it is.

::

    TestbedError
    ├── ConfigError        the user's input is wrong; exit code 2, one clear line
    ├── DataError          a data set cannot be had; exit code 2
    ├── ProtocolError      a peer broke the protocol
    ├── TransportError     the network failed in a way that is not an ordinary loss
    └── RunnerError        the run failed for a reason that is not the user's input; exit code 3
        ├── DivergedError  a node's model is not finite any more; exit code 5
        └── StalledError   nothing can happen any more, though nodes have rounds left

A lost fragment, a dead peer or a timeout is an event, not an exception. ``assert`` states what only a bug
of our own could break.
"""


class TestbedError(Exception):
    """Base of every error that the testbed raises on purpose."""

    __test__ = False  # pytest would collect the name otherwise


class ConfigError(TestbedError):
    """The user's input is wrong.

    The message is one line that names the place, the value and the bound, for example
    ``network.loss_percent=140: must be between 0 and 100``.
    """


class DataError(TestbedError):
    """A data set cannot be had: missing, unreadable, or not downloadable here."""


class ProtocolError(TestbedError):
    """A peer sent something that the protocol does not allow."""


class TransportError(TestbedError):
    """The transport failed in a way that is not an ordinary loss."""


class RunnerError(TestbedError):
    """The run failed; what was already written stays valid."""


class StalledError(RunnerError):
    """Nothing can happen any more, though nodes have rounds left; the message says what each waits for."""


class DivergedError(RunnerError):
    """A node's model is not finite any more: what :mod:`node.core.divergence` says.

    Attributes:
        node: Which node.
        round: Its last completed round, counted from 0 as messages are stamped; -1 before it completed one.
        time_ns: Testbed time at which that was seen.
    """

    def __init__(self, node: int, round: int, time_ns: int) -> None:
        when = f"after round {round}" if round >= 0 else "before its first round is over"
        super().__init__(f"node {node}: its model is not finite {when} (learning rate too high?)")
        self.node = node
        self.round = round
        self.time_ns = time_ns
