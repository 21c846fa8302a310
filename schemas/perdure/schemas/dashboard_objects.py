"""Saved objects of OpenSearch Dashboards: how they are built from fields, queries and aggregations.

Contract: every field is looked up in :class:`perdure.schemas.index.IndexDocument`; one that is not there, or not of the kind that
its use needs, stops the generation, so that no name can drift. Queries are in Lucene's syntax: OpenSearch runs them as they stand
(``query_string``), which the tests do. Ids are fixed: importing again replaces what is there.

Outside: which objects there are (``perdure.schemas.dashboards``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from perdure.schemas.events import Event
from perdure.schemas.index import IndexDocument, mapping_of

VERSION: Final = "3.4.0"
"""The Dashboards that these are written for."""
MIGRATED: Final = {"index-pattern": "7.6.0", "search": "7.9.3", "visualization": "7.10.0", "dashboard": "7.9.3"}
"""The shape of each kind, in Dashboards' own count: it changes nothing when it imports them."""
SOURCE: Final = "kibanaSavedObjectMeta"
INDEX: Final = f"{SOURCE}.searchSourceJSON.index"
WIDTH: Final = 48
"""Columns of a dashboard's grid."""

Object = dict[str, Any]


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Field types by dotted name."""
    found: dict[str, str] = {}
    for name, field in mapping["properties"].items():
        found |= _flat(field, f"{prefix}{name}.") if "properties" in field else {f"{prefix}{name}": field["type"]}
    return found


FIELDS: Final = _flat(mapping_of(IndexDocument))
GROUPED: Final = ("keyword",)
MEASURED: Final = ("long", "float", "date")


def field(name: str, *types: str) -> str:
    """The name of a field that the mapping has.

    Raises:
        LookupError: it has none of that name, or of another type.

    """
    if name not in FIELDS or (types and FIELDS[name] not in types):
        raise LookupError(f"the index has no field {name!r}{f' of type {types}' if types else ''}")
    return name


def is_(name: str, *values: str) -> str:
    """The query for documents whose field has one of these values."""
    quoted = " OR ".join(f'"{value}"' for value in values)
    return f"{field(name, *GROUPED)}:{quoted if len(values) == 1 else f'({quoted})'}"


def of_(event: type[Event]) -> str:
    """The query for one kind of event."""
    return is_("event", event.TYPE)


def before_now(name: str) -> str:
    """The query for documents whose time has passed."""
    return f"{field(name, 'date')}:[* TO now}}"


def all_of(*queries: str) -> str:
    """The query for documents that all of these find."""
    return " AND ".join(queries)


def count(label: str) -> Object:
    """How many documents."""
    return {"type": "count", "schema": "metric", "params": {"customLabel": label}}


def measure(kind: str, name: str, label: str, **params: Any) -> Object:
    """A number made of a field: ``avg``, ``max``, ``percentiles`` or ``cardinality``."""
    types = GROUPED if kind == "cardinality" else MEASURED
    return {"type": kind, "schema": "metric", "params": {"field": field(name, *types), "customLabel": label, **params}}


def terms(name: str, label: str, schema: str, size: int = 20) -> Object:
    """One bucket for each value of a field, the largest first."""
    params = {
        "field": field(name, *GROUPED),
        "orderBy": "1",
        "order": "desc",
        "size": size,
        "otherBucket": False,
        "missingBucket": False,
        "customLabel": label,
    }
    return {"type": "terms", "schema": schema, "params": params}


def over_time(label: str) -> Object:
    """One bucket for each stretch of time."""
    params = {
        "field": field("occurred_at", "date"),
        "interval": "auto",
        "min_doc_count": 1,
        "drop_partials": False,
        "useNormalizedOpenSearchInterval": True,
        "extended_bounds": {},
        "customLabel": label,
    }
    return {"type": "date_histogram", "schema": "segment", "params": params}


def index_pattern(alias: str, time_field: str | None) -> Object:
    """An alias to search; Dashboards reads its fields from the index itself."""
    seconds = {
        "id": "duration",
        "params": {"inputFormat": "milliseconds", "outputFormat": "asSeconds", "outputPrecision": 2},
    }
    attributes: Object = {"title": alias, "fieldFormatMap": _json({field("duration_ms"): seconds})}
    if time_field is not None:
        attributes["timeFieldName"] = field(time_field, "date")
    return _object("index-pattern", alias, attributes, [])


def search(id_: str, title: str, description: str, index: str, query: str, columns: Sequence[str]) -> Object:
    """A table of documents, newest first."""
    attributes = {
        "title": title,
        "description": description,
        "hits": 0,
        "columns": [field(name) for name in columns],
        "sort": [[field("occurred_at", "date"), "desc"]],
        "version": 1,
        SOURCE: _source(query),
    }
    return _object("search", id_, attributes, [_index_reference(index)])


def saved_query(id_: str, title: str, description: str, query: str, begin: str, end: str) -> Object:
    """A query with its own time range."""
    attributes = {
        "title": title,
        "description": description,
        "query": {"query": query, "language": "lucene"},
        "filters": [],
        "timefilter": {"from": begin, "to": end, "refreshInterval": {"pause": True, "value": 0}},
    }
    return _object("query", id_, attributes, [])


def visualization(
    id_: str, title: str, kind: str, index: str, query: str, aggregations: Sequence[Object], **params: Any
) -> Object:
    """A chart, a table or a number."""
    numbered = [{"id": str(n), "enabled": True, **one} for n, one in enumerate(aggregations, 1)]
    state = {"title": title, "type": kind, "aggs": numbered, "params": {"type": kind, "addTooltip": True, **params}}
    attributes = {
        "title": title,
        "visState": _json(state),
        "uiStateJSON": "{}",
        "description": "",
        "version": 1,
        SOURCE: _source(query),
    }
    return _object("visualization", id_, attributes, [_index_reference(index)])


def number(id_: str, title: str, index: str, query: str, aggregation: Object) -> Object:
    """A large number."""
    style = {"bgFill": "#000", "bgColor": False, "labelColor": False, "subText": "", "fontSize": 48}
    metric = {
        "percentageMode": False,
        "useRanges": False,
        "colorSchema": "Green to Red",
        "metricColorMode": "None",
        "colorsRange": [{"from": 0, "to": 10_000}],
        "labels": {"show": True},
        "invertColors": False,
        "style": style,
    }
    return visualization(id_, title, "metric", index, query, [aggregation], addLegend=False, metric=metric)


def pie(id_: str, title: str, index: str, query: str, aggregations: Sequence[Object]) -> Object:
    """Shares of a whole."""
    labels = {"show": True, "values": True, "last_level": True, "truncate": 100}
    return visualization(
        id_,
        title,
        "pie",
        index,
        query,
        aggregations,
        addLegend=True,
        legendPosition="right",
        isDonut=True,
        labels=labels,
    )


def table(id_: str, title: str, index: str, query: str, aggregations: Sequence[Object]) -> Object:
    """Numbers by one or more fields."""
    return visualization(
        id_, title, "table", index, query, aggregations,
        perPage=10, showPartialRows=False, showMetricsAtAllLevels=False, showTotal=False, totalFunc="sum", percentageCol="",
    )  # fmt: skip


def bars(
    id_: str, title: str, index: str, query: str, aggregations: Sequence[Object], *, lying: bool = False
) -> Object:
    """Bars over time, or lying ones by value."""
    label = aggregations[0]["params"]["customLabel"]
    category = {
        "id": "CategoryAxis-1", "type": "category", "position": "left" if lying else "bottom", "show": True, "style": {},
        "scale": {"type": "linear"}, "labels": {"show": True, "filter": not lying, "truncate": 100}, "title": {},
    }  # fmt: skip
    value = {
        "id": "ValueAxis-1", "name": "BottomAxis-1" if lying else "LeftAxis-1", "type": "value",
        "position": "bottom" if lying else "left", "show": True, "style": {}, "scale": {"type": "linear", "mode": "normal"},
        "labels": {"show": True, "rotate": 0, "filter": False, "truncate": 100}, "title": {"text": label},
    }  # fmt: skip
    series = {
        "show": True, "type": "histogram", "mode": "stacked", "data": {"label": label, "id": "1"},
        "valueAxis": "ValueAxis-1", "drawLinesBetweenPoints": True, "lineWidth": 2, "showCircles": True,
    }  # fmt: skip
    return visualization(
        id_, title, "horizontal_bar" if lying else "histogram", index, query, aggregations,
        grid={"categoryLines": False}, categoryAxes=[category], valueAxes=[value], seriesParams=[series],
        addLegend=True, legendPosition="right", times=[], addTimeMarker=False, labels={"show": False},
        thresholdLine={"show": False, "value": 10, "width": 1, "style": "full", "color": "#E7664C"},
    )  # fmt: skip


def dashboard(
    id_: str, title: str, description: str, rows: Sequence[tuple[int, Sequence[Object]]], begin: str
) -> Object:
    """Panels in rows of a height each, as wide as there is room; ``begin`` of the time range, which ends now."""
    panels: list[Object] = []
    references: list[Object] = []
    top = 0
    for height, shown in rows:
        width = WIDTH // len(shown)
        for place, one in enumerate(shown):
            name = str(len(panels))
            grid = {"x": place * width, "y": top, "w": width, "h": height, "i": name}
            reference = f"panel_{name}"
            panels.append(
                {
                    "version": VERSION,
                    "gridData": grid,
                    "panelIndex": name,
                    "embeddableConfig": {},
                    "panelRefName": reference,
                }
            )
            references.append({"name": reference, "type": one["type"], "id": one["id"]})
        top += height
    attributes = {
        "title": title,
        "hits": 0,
        "description": description,
        "panelsJSON": _json(panels),
        "optionsJSON": _json({"hidePanelTitles": False, "useMargins": True}),
        "version": 1,
        "timeRestore": True,
        "timeFrom": begin,
        "timeTo": "now",
        "refreshInterval": {"pause": False, "value": 30_000},
        SOURCE: {"searchSourceJSON": _json({"query": {"query": "", "language": "lucene"}, "filter": []})},
    }
    return _object("dashboard", id_, attributes, references)


def _object(kind: str, id_: str, attributes: Object, references: list[Object]) -> Object:
    migrated = {"migrationVersion": {kind: MIGRATED[kind]}} if kind in MIGRATED else {}
    return {"id": id_, "type": kind, "attributes": attributes, "references": references, **migrated}


def _source(query: str) -> Object:
    source = {"query": {"query": query, "language": "lucene"}, "filter": [], "indexRefName": INDEX}
    return {"searchSourceJSON": _json(source)}


def _index_reference(index: str) -> Object:
    return {"name": INDEX, "type": "index-pattern", "id": index}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
