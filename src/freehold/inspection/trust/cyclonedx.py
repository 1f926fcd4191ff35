"""A bill of materials in CycloneDX 1.7 (ECMA-424), with the model card of its machine-learning profile."""

from typing import Any

from freehold import __version__
from freehold.inspection.trust.bom import BomFile, Materials, hub_url

_MODEL = "model"


def cyclonedx(materials: Materials) -> dict[str, Any]:
    m = materials
    bases = [_base(name) for name in m.base_models]
    datasets = [_dataset(name) for name in m.datasets]
    model = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": m.name,
        "description": m.description,
        "publisher": m.publisher,
        "licenses": [_licence(name, m.licence_link) for name in m.licences],
        "pedigree": {"ancestors": bases, "notes": m.base_relation} if bases else None,
        "components": [_file(file) for file in m.files],
        "modelCard": _model_card(m),
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{m.identifier}",
        "version": 1,
        "metadata": {
            "timestamp": m.created.isoformat().replace("+00:00", "Z"),
            "tools": {"components": [{"type": "application", "name": "freehold", "version": __version__}]},
            "component": _without_empty(model),
        },
        "components": datasets,
        # What trained the model is known only as far as its card tells.
        "compositions": [{"aggregate": "incomplete", "assemblies": [_MODEL]}],
    }


def _model_card(m: Materials) -> dict[str, Any]:
    parameters = {
        "task": m.task,
        "modelArchitecture": m.architecture,
        "datasets": [{"ref": _dataset_ref(name)} for name in m.datasets],
    }
    metrics = [_without_empty({"type": x.kind, "value": x.value, "slice": x.data}) for x in m.metrics]
    properties = [{"name": "freehold:language", "value": language} for language in m.languages]
    if m.parameters:
        properties.append({"name": "freehold:stored_values", "value": str(m.parameters)})
    card = {
        "modelParameters": _without_empty(parameters),
        "quantitativeAnalysis": {"performanceMetrics": metrics} if metrics else None,
        "properties": properties,
    }
    return _without_empty(card)


def _file(file: BomFile) -> dict[str, Any]:
    properties = [("kind", file.kind), ("bytes", str(file.num_bytes)), ("weights", str(file.is_weights).lower())]
    return {
        "type": "file",
        "bom-ref": f"file:{file.name}",
        "name": file.name,
        "hashes": [{"alg": "SHA-256", "content": file.sha256}],
        "properties": [{"name": f"freehold:{name}", "value": value} for name, value in properties],
    }


def _base(name: str) -> dict[str, Any]:
    return {"type": "machine-learning-model", "bom-ref": f"base:{name}", "name": name} | _distribution(hub_url(name))


def _dataset(name: str) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": _dataset_ref(name),
        "name": name,
        "data": [{"type": "dataset", "name": name}],
    } | _distribution(hub_url(name, "datasets/"))


def _dataset_ref(name: str) -> str:
    return f"dataset:{name}"


def _distribution(url: str) -> dict[str, Any]:
    return {"externalReferences": [{"type": "distribution", "url": url}]} if url else {}


def _licence(name: str, link: str) -> dict[str, Any]:
    """As declared: by its SPDX identifier where it has one."""
    from freehold.inspection.trust.spdx_names import spdx_name

    if found := spdx_name(name):
        return {"license": {"id": found, "acknowledgement": "declared"}}
    return {"license": _without_empty({"name": name, "url": link, "acknowledgement": "declared"})}


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}
