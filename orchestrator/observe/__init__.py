"""Observation of runs: series of finished ones for Prometheus, and what Prometheus and Grafana need to show any.

The names, labels and help of all families stand in :mod:`node.metrics`; nothing here adds one.

=====================  ============================================================================
``sampled_run``        the instants at which a run is sampled, and labels; pure
``openmetrics``        families of samples as text; pure
``message_series``     what happened to messages up to each instant; pure
``node_series``        what nodes told at their evaluations, and when they were there; pure
``run_series``         what holds for a whole run: evaluation, faults, fidelity; pure
``link_series``        rates that links are to have; pure
``recorded_run``       all families of a run directory, anchored at a wall-clock time, in a file
``prometheus_files``   the scrape configuration, rules and alerts in ``prometheus/``
``installed``          Prometheus and promtool of this host
``services``           what Prometheus and Grafana are started with beside runs; pure
``dashboards``         the dashboards of Grafana; pure
=====================  ============================================================================
"""
