"""Grafana dashboards, written as typed values and rendered as classic dashboard JSON. Pure.

``panels`` and ``tables`` are the kinds of panels, ``layout`` makes dashboards of them, ``queries`` has the recurring
pieces of PromQL, one module each has a dashboard, and ``rendering`` makes the files below ``deploy/grafana``.
"""
