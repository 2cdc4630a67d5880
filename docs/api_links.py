"""Sphinx extension: link the code names in the API pages, and remove noise from signatures.

Single backticks in docstrings are code. This extension makes a link of each one that names a documented
object: by its full name, without `pipeline_lib.`, by the end of its name if this is unique (`layout.RAW`,
`Images.read`), or by its own name within its module or class. Other names stay code. The types in the
sections Parameters, Returns, Yields and Raises are linked in the same way.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry
from sphinx.util.nodes import make_refnode

from pipeline_lib import layout

PACKAGE = "pipeline_lib"
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
# Names of arrays in HDF5 files, which are also names of functions.
ARRAYS = {
    value.name: f"{layout.__name__}.{key}"
    for key, value in vars(layout).items()
    if isinstance(value, layout.Array) and "_" in value.name
}
# A documented NamedTuple has these texts for fields, which its section Parameters describes already.
NOISE = "Alias for field number"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions below to the events of Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("doctree-resolved", link_names)
    app.connect("autodoc-skip-member", skip_alias)
    app.connect("autodoc-process-signature", clean_signature)
    app.connect("autodoc-process-docstring", add_type)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def skip_alias(app: Sphinx, what: str, name: str, value: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of NamedTuples, which have no description of their own."""
    return True if (getattr(value, "__doc__", None) or "").startswith(NOISE) else None


def clean_signature(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, returned: str
) -> tuple[str, str] | None:
    """Show no arguments for protocols and enumerations, and default factories as what they make."""
    if getattr(value, "_is_protocol", False) or (inspect.isclass(value) and issubclass(value, Enum)):
        return "", returned
    if signature and "<factory>" in signature and inspect.isclass(value):
        fields = vars(value)["__dataclass_fields__"]
        for field in (field for field in fields.values() if callable(field.default_factory)):
            signature = signature.replace(
                f"{field.name}=<factory>", f"{field.name}={field.default_factory()!r}"
            )
        return signature, returned
    return None


def add_type(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Add the type of a property, from its annotation."""
    function = getattr(value, "fget", None) or getattr(value, "func", None)  # cached_property
    if what == "property" and function and (kind := inspect.get_annotations(function).get("return")):
        lines += ["", f":Type: `{kind}`", ""]


def link_names(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Replace the names of documented objects on a page by links."""
    objects = app.env.domains.python_domain.objects
    for node in [*tree.findall(_may_be_name)]:
        if _inside(node, nodes.reference) or _inside(node, addnodes.desc_signature):
            continue
        scope = Scope(node, page, objects)
        if isinstance(node, nodes.literal):
            target = scope.find(node.astext())
            if target:
                node.replace_self(_link(app, page, objects, target, node.deepcopy()))
        else:
            parts = [*_linked_types(app, page, objects, scope, node.astext())]
            if len(parts) > 1 or not isinstance(parts[0], nodes.Text):
                node.children = []
                node.extend(parts)


def _may_be_name(node: nodes.Node) -> bool:
    """Return whether `node` is code, or the type of a parameter, result or exception."""
    if isinstance(node, nodes.literal):
        return True
    simple = len(node.children) == 1 and isinstance(node.children[0], nodes.Text)
    return isinstance(node, (nodes.classifier, nodes.term)) and simple and _inside(node, nodes.field_list)


def _inside(node: nodes.Node | None, kind: type[nodes.Node]) -> bool:
    while node is not None and not isinstance(node, kind):
        node = node.parent
    return node is not None


def _link(
    app: Sphinx, page: str, objects: Mapping[str, ObjectEntry], target: str, content: nodes.Node
) -> nodes.reference:
    entry = objects[target]
    return make_refnode(app.builder, page, entry.docname, entry.node_id, content, target)


def _linked_types(
    app: Sphinx, page: str, objects: Mapping[str, ObjectEntry], scope: Scope, text: str
) -> Iterator[nodes.Node]:
    """Yield the text of a type, with links for the documented classes in it."""
    end = 0
    for match in NAME.finditer(text):
        target = scope.find(match[0]) if match[0].rpartition(".")[2][0].isupper() else None
        if target:
            yield nodes.Text(text[end : match.start()])
            yield _link(app, page, objects, target, nodes.inline(text=match[0]))
            end = match.end()
    yield nodes.Text(text[end:])


class Scope:
    """The module, class and object whose description contains a node."""

    def __init__(self, node: nodes.Node, page: str, objects: Mapping[str, ObjectEntry]) -> None:
        self.objects, self.module, self.owner, self.own = objects, "", "", ""
        last = page.rpartition("/")[2]
        if last.startswith(PACKAGE):
            self.module = last
        parent = node.parent
        while parent is not None and not isinstance(parent, addnodes.desc):
            parent = parent.parent
        if parent is not None and parent["domain"] == "py":
            signature = parent.children[0]
            assert isinstance(signature, addnodes.desc_signature)
            self.module, self.own = signature.get("module") or self.module, signature["fullname"]
            is_class = parent["objtype"] in ("class", "exception")
            self.owner = self.own if is_class else self.own.rpartition(".")[0]

    def find(self, text: str) -> str | None:
        """Return the full name of the documented object that `text` means here, or None."""
        name = text.removesuffix("()")
        if not NAME.fullmatch(name) or name in self._parameters():
            return None
        if not self.module and not name.startswith(f"{PACKAGE}."):
            return None  # a page that is not of the API
        prefixes = [f"{self.module}.{self.owner}.", f"{self.module}.", f"{PACKAGE}.", ""]
        for full in (prefix + name for prefix in prefixes):
            if full in self.objects:
                if "." not in name and self.objects[full].objtype == "module":
                    return None  # a word such as `provenance` can mean other things
                return full if full != f"{self.module}.{self.own}" else None
        if name in ARRAYS:
            return ARRAYS[name]
        if "." not in name and "_" not in name and not name[0].isupper():
            return None  # a word such as `train` can mean other things
        return self._unique(f".{name}")

    def _unique(self, ending: str) -> str | None:
        """Return the only object with this end of its name; members of classes come second."""
        found = [name for name in self.objects if name.endswith(ending)]
        top = [
            name for name in found if self.objects[name].objtype not in ("method", "attribute", "property")
        ]
        if "." not in ending[1:]:
            found = []  # an attribute without its class
        return next((names[0] for names in (top, found) if len(names) == 1), None)

    def _parameters(self) -> set[str]:
        """Return the names of the parameters of the object, which are not links."""
        if not self.own:
            return set()
        value: Any = importlib.import_module(self.module)
        for part in self.own.split("."):
            value = getattr(value, part, None)
        try:
            return {*inspect.signature(value).parameters}
        except (TypeError, ValueError):
            return set()
