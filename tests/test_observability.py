"""Dashboard and alert rules ask for metrics and labels that exist, and each alert says what to do."""

import json
import re
from pathlib import Path

import prometheus_client
import pytest
import yaml

from service import listener, server

FOLDER = Path(server.__file__).with_name("observability")
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
SCRAPED = {"le", "instance"}
"""Labels that Prometheus adds."""


def exposed() -> dict[str, set[str]]:
    """The names under which server and listener expose their metrics, with the labels of each."""
    assert listener.NAME
    families = {
        metric.name: (metric.type, set(collector._labelnames))
        for collector in prometheus_client.REGISTRY._collector_to_names
        if isinstance(collector, prometheus_client.metrics.MetricWrapperBase)
        for metric in collector.describe()
    }
    return {name + suffix: labels for name, (kind, labels) in families.items() for suffix in SUFFIXES[kind]}


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_every_query_asks_for_metrics_and_labels_that_exist(query: str) -> None:
    known = exposed()
    names = re.findall(r"payment_webhooks_\w+", query)
    assert names
    assert set(names) <= known.keys()
    for name, matchers in re.findall(r"(payment_webhooks_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r'(\w+)=~?"', matchers)) <= known[name]
    for labels in re.findall(r"by \(([^)]*)\)", query):
        assert set(labels.split(", ")) <= set.union(SCRAPED, *(known[name] for name in names))


def test_the_dashboard_shows_every_metric() -> None:
    shown = set(re.findall(r"payment_webhooks_\w+", " ".join(QUERIES)))
    assert {name for name in exposed() if not name.endswith(("_count", "_sum"))} - shown == {
        "payment_webhooks_batch_events_bucket"  # shown as a mean
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["description"].endswith(".")
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= set(
        re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", str(rule["expr"]))))
    )
