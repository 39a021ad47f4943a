"""Observation of runs: what Prometheus and Grafana need to show them."""
