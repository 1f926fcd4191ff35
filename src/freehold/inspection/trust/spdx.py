"""A bill of materials in SPDX 3.0.1 (JSON-LD) with its AI, dataset and software profiles, by `spdx-python-model`.

The package holds the specification's shapes: it refuses what they do not allow.
"""

import io
import json
import re
from collections.abc import Iterable
from typing import Any

from freehold import __version__
from freehold.errors import UnsupportedError
from freehold.inspection.trust.bom import BomFile, Materials, hub_url
from freehold.inspection.trust.spdx_names import spdx_name


def spdx(materials: Materials) -> dict[str, Any]:
    return _Document(materials).to_dict()


class _Document:
    def __init__(self, materials: Materials):
        try:
            from spdx_python_model import v3_0_1
        except ImportError:
            raise UnsupportedError("SPDX needs spdx-python-model", "pip install 'freehold[inspect]'") from None
        self._spdx: Any = v3_0_1
        self._materials = materials
        self._space = f"urn:uuid:{materials.identifier}#"
        self._elements: list[Any] = []
        tool = self._spdx.SoftwareAgent(spdxId=f"{self._space}freehold", name=f"freehold {__version__}")
        self._creation = self._spdx.CreationInfo(
            _id="_:creation", created=materials.created, createdBy=[tool], specVersion="3.0.1"
        )
        tool.creationInfo = self._creation
        self._elements.append(tool)

    def to_dict(self) -> dict[str, Any]:
        m, spdx = self._materials, self._spdx
        model = self._model()
        files = [self._file(number, file) for number, file in enumerate(m.files)]
        self._relate(model, spdx.RelationshipType.contains, files, complete=True)
        self._relate(
            model, spdx.RelationshipType.trainedOn, [self._dataset(n, name) for n, name in enumerate(m.datasets)]
        )
        self._relate(
            model, spdx.RelationshipType.descendantOf, [self._base(n, name) for n, name in enumerate(m.base_models)]
        )
        self._relate(model, spdx.RelationshipType.hasDeclaredLicense, [self._licence()] if m.licences else [])
        document = self._element(spdx.SpdxDocument, "document", f"Bill of materials of {m.name}")
        profiles = ("core", "software", "ai", "dataset", "simpleLicensing")
        document.profileConformance = [getattr(spdx.ProfileIdentifierType, name) for name in profiles]
        document.rootElement = [model]
        document.element = [element for element in self._elements if element is not document]
        return self._serialized()

    def _serialized(self) -> dict[str, Any]:
        objects, out = self._spdx.SHACLObjectSet(), io.BytesIO()
        for element in (self._creation, *self._elements):
            objects.add(element)
        self._spdx.JSONLDSerializer().write(objects, out)
        return json.loads(out.getvalue())

    def _element(self, kind: Any, name: str, label: str) -> Any:
        element = kind(spdxId=self._space + name, creationInfo=self._creation, name=label)
        self._elements.append(element)
        return element

    def _model(self) -> Any:
        m = self._materials
        model = self._element(self._spdx.ai_AIPackage, "model", m.name)
        model.software_primaryPurpose = self._spdx.software_SoftwarePurpose.model
        if m.description:
            model.description = m.description
        if m.publisher:
            model.suppliedBy = self._element(self._spdx.Organization, "publisher", m.publisher)
        if m.architecture:
            model.ai_typeOfModel = [m.architecture]
        if m.task:
            model.ai_domain = [m.task]
        if m.parameters:
            model.ai_hyperparameter = [self._entry("stored_values", str(m.parameters))]
        model.ai_metric = [self._entry(f"{x.kind} on {x.data}" if x.data else x.kind, x.value) for x in m.metrics]
        return model

    def _entry(self, key: str, value: str) -> Any:
        return self._spdx.DictionaryEntry(key=key, value=value)

    def _file(self, number: int, file: BomFile) -> Any:
        purposes = self._spdx.software_SoftwarePurpose
        element = self._element(self._spdx.software_File, f"file-{number}", file.name)
        element.verifiedUsing = [self._spdx.Hash(algorithm=self._spdx.HashAlgorithm.sha256, hashValue=file.sha256)]
        element.software_primaryPurpose = purposes.model if file.is_weights else purposes.other
        return element

    def _dataset(self, number: int, name: str) -> Any:
        element = self._element(self._spdx.dataset_DatasetPackage, f"dataset-{number}", name)
        element.dataset_datasetType = [self._spdx.dataset_DatasetType.noAssertion]
        element.software_primaryPurpose = self._spdx.software_SoftwarePurpose.data
        if url := hub_url(name, "datasets/"):
            element.software_downloadLocation = url
        return element

    def _base(self, number: int, name: str) -> Any:
        element = self._element(self._spdx.ai_AIPackage, f"base-{number}", name)
        element.software_primaryPurpose = self._spdx.software_SoftwarePurpose.model
        if url := hub_url(name):
            element.software_downloadLocation = url
        return element

    def _licence(self) -> Any:
        names = [spdx_name(name) or f"LicenseRef-{_reference(name)}" for name in self._materials.licences]
        element = self._element(self._spdx.simplelicensing_LicenseExpression, "licence", " AND ".join(names))
        element.simplelicensing_licenseExpression = " AND ".join(names)
        return element

    def _relate(self, from_: Any, kind: Any, to: Iterable[Any], *, complete: bool = False) -> None:
        to = list(to)
        if not to:
            return
        relation = self._spdx.Relationship(
            spdxId=f"{self._space}{kind.rsplit('/', 1)[-1]}", creationInfo=self._creation, relationshipType=kind
        )
        relation.from_, relation.to = from_, to
        completeness = self._spdx.RelationshipCompleteness
        relation.completeness = completeness.complete if complete else completeness.incomplete
        self._elements.append(relation)


def _reference(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") or "unnamed"
