"""Bounds of every number and text that comes from outside, in one place.

Numbers are bounded so that their products are too: times in nanoseconds stay within 64 bits, also after the few sums
and products that a run makes of them. Texts are bounded so that a wrong one is refused within a second.
"""

from typing import Final

INT64_MAX: Final = 2**63 - 1
"""The largest whole number of an array, a frame and a checkpoint."""

COUNT_MAX: Final = 10**9
"""The most of anything that is counted and not held in memory: rounds, samples asked for."""

# -- quantities --------------------------------------------------------------------------------------------------

TIME_S_MAX: Final = 1e9
"""Thirty years: the longest time that may be named, and the longest round."""

MS_MAX: Final = 1e9
"""The longest latency, one way: eleven days."""

MBPS_MIN: Final = 1e-6
"""One bit a second: with less, a message would take longer than a clock of 64 bits can tell."""

MBPS_MAX: Final = 1e9
"""The fastest link; what is faster is unlimited."""

FACTOR_MAX: Final = 1e6
"""The most that one factor slows a node down."""

CHANGES_MAX: Final = 1_000_000
"""Changes of capacity in one plan: beyond this a trace repeats too long for its step."""

# -- how many there are ------------------------------------------------------------------------------------------

NODES_MAX: Final = 10_000
ENTRIES_MAX: Final = 5_000
"""Entries of a list in the experiment file."""

REGIONS_MAX: Final = 1_000
TRACE_ROWS_MAX: Final = 200_000
EDGE_LINES_MAX: Final = 1_000_000
"""Lines with an edge in an edge list."""

EDGES_MAX: Final = 5_000_000
"""Edges of any graph but the full one, which makes its rows where they are asked for. Each is kept, checked and, in a
random graph, drawn on its own, which takes microseconds: five million take up to a minute and a gigabyte."""

# -- texts -------------------------------------------------------------------------------------------------------

INPUT_BYTES_MAX: Final = 16 * 2**20
"""Size of an edge list, a trace or a file of regions."""

INPUT_COPY_BYTES_MAX: Final = 4 * 2**20
"""Size up to which such a file is copied into the run directory."""

RATINGS_BYTES_MAX: Final = 2**28
"""Size of a file of ratings; a hundred times that of the MovieLens file in use."""

RATING_ID_MAX: Final = 2**53
"""The largest number of a user or an item: beyond it two numbers become one."""

IMAGE_BYTES_MAX: Final = 2**28
"""Size of the file of one image, which is read whole."""

ARCHIVE_BYTES_MAX: Final = 2**36
"""Size of an archive of arrays that a node is given."""

YAML_BYTES_MAX: Final = 4 * 2**20
"""Size of an experiment file."""

YAML_VALUES_MAX: Final = 100_000
"""Keys and values of an experiment file, with every repetition by an alias."""

YAML_DEPTH_MAX: Final = 32
"""Levels of lists and mappings in an experiment file; six are in use."""

JSON_DIGITS_MAX: Final = 400
"""Digits of a whole number; those of the largest float are 309."""

RECORD_BYTES_MAX: Final = 2**30
"""Size of a text that a run itself wrote, such as its curve."""

PIPE_SILENCE_S: Final = 5.0
"""Silence allowed to a pipe that is read as a text."""

SHOWN_LETTERS_MAX: Final = 60
"""Letters of a key or a line that a message quotes."""
