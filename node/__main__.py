"""Start one node from its file, with nothing inherited: ``python -m node --config FILE [--run ID] [--gate FILE]``.

The file is read and checked first: what is wrong with it, or with the data that it names, is one line and exit code 2,
before the node opens a socket. Then come the libraries, the data, the gate, the training worker, and last the network.

Exit codes: 0 the node has come to its end; 1 it failed; 2 wrong input; 3 the orchestrator is gone; 5 it went down as
planned; 130 Ctrl-C.
"""

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from node.config_file import read_node_config
from node.core.errors import ConfigError, DataError, TestbedError
from node.host.gate import wait_for_gate

EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_DOWN = 5
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node to its end.

    Args:
        arguments: Of the command line; None for this process's.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m node", description="Start one node from its file.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the node's JSON file")
    parser.add_argument("--run", metavar="ID", help="refuse the file unless it belongs to this run")
    parser.add_argument("--gate", type=Path, metavar="FILE", help="open no socket before this file exists")
    parser.add_argument("--linger", type=float, default=0.0, metavar="S", help="stay for so long after the end")
    options = parser.parse_args(arguments)
    try:
        config = read_node_config(options.config, options.run)
        with _nothing_collected():
            # torch takes seconds to load, and gRPC must not be loaded by whoever only reads a file.
            from node.build import load_learner, log_to_stderr, run_built

            log_to_stderr(config.node)
            try:
                learner = load_learner(config)
            except (ConfigError, DataError) as error:
                raise type(error)(f"{options.config}: {error}") from None
        if options.gate is not None:
            wait_for_gate(options.gate, config.start_timeout_s)
        code = run_built(config, learner)
        if code != EXIT_DOWN:
            time.sleep(options.linger)
        return code
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Look for no garbage in the block, where objects are loaded that stay, and never among these.

    The search would take a quarter of the time. Afterwards it would copy pages that the training worker shares.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
