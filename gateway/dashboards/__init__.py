"""The Grafana dashboards as code: `python -m gateway.dashboards` writes them into a folder as JSON."""
