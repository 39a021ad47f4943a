from node.core.lateness import Lateness
from node.emulation.statistics import EmulatorStatistics


def test_statistics_survive_the_way() -> None:
    late = (Lateness(1, 2, 3, 4), Lateness(5, 6, 7, 8), Lateness(9, 10, 11, 12))
    statistics = EmulatorStatistics(1, 2, 3, 4, 5, 6, 7, *late, 0.25)
    assert EmulatorStatistics.from_json(statistics.to_json()) == statistics
