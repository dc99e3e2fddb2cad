"""The template language, and that every shipped template is known, parses and is used."""

from __future__ import annotations

import importlib
import re
import tomllib

import pytest

from edgeswarm.assets import asset
from edgeswarm.compile import bits
from edgeswarm.compile import library as library_module
from edgeswarm.compile.library import library
from edgeswarm.compile.template import Template
from edgeswarm.errors import LocalError
from edgeswarm.model import ACTIVATIONS, reference


def render(source: str, **values: int | str) -> str:
    others = {"other": Template.parse("other", "(@{a} @{k + 1})")}
    return Template.parse("here", source).render(values, others.__getitem__)


@pytest.mark.parametrize(
    ("source", "values", "text"),
    [
        ("a @{n} b", {"n": 3}, "a 3 b"),
        ("@{4 * (n + 1) // 3 - n % 2}", {"n": 5}, "7"),
        ("@{name}", {"name": "$f1"}, "$f1"),
        ("@[0.5]", {}, "(v128.const f32x4 0.5 0.5 0.5 0.5)"),
        (";; gone\n\n  kept  ", {}, "kept"),
        (";;@ for i in 1..n\nx@{i}\n;;@ end", {"n": 3}, "x1\nx2"),
        (";;@ for i in 0..2\n;;@ for j in 0..i\n@{i}@{j}\n;;@ end\n;;@ end", {}, "10"),
        (";;@ if n > 2 and not n == 4\nyes\n;;@ else\nno\n;;@ end", {"n": 4}, "no"),
        (";;@ if n\nyes\n;;@ end", {"n": 4}, "yes"),
        (";;@ define part\n[@{i}]\n;;@ end\n;;@ use part i=@{n * 2}\n;;@ use part i=1", {"n": 2}, "[4]\n[1]"),
        (";;@ use other a=$a@{n * 2} k=@{n + 1}", {"n": 2}, "($a4 4)"),
        (";;@ use @{which} a=x k=1", {"which": "other"}, "(x 2)"),
        ("@{-n}", {"n": 2}, "-2"),
        ("@{0 - (1 < n)}", {"n": 2}, "-1"),
    ],
)
def test_directives(source, values, text):
    assert render(source, **values) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("@{n +}", "line 1"),
        ("\n@{f(1)}", r"line 2: 'f\(1\)' is more than whole numbers"),
        ("@{(1).real}", "more than whole numbers"),
        ("@{[1]}", "more than whole numbers"),
        ("@{1.5}", "more than whole numbers"),
        ("@{lambda: 0}", "more than whole numbers"),
        ("@{missing}", "name 'missing' is not defined"),
        ("@{1 // 0}", "division"),
        (";;@ for i in 0..3\nx", "expected `;;@ end`"),
        (";;@ if 1\nx", "expected `;;@ end`"),
        (";;@ end", "no directive here"),
        (";;@ for i from 1 to 2", "no directive here"),
        (";;@ repeat 3", "no directive here"),
        (";;@ for i in 0..name\nx\n;;@ end", "expected a whole number, found 'text'"),
        (";;@ define loop\n;;@ use loop\n;;@ end\n;;@ use loop", "more than 8 uses inside each other"),
    ],
)
def test_faults_name_the_template(source, text):
    with pytest.raises(LocalError, match=text) as caught:
        render(source, name="text")
    assert "here" in str(caught.value)


def test_output_is_bounded():
    with pytest.raises(LocalError, match="KERNEL_WASM_BYTES_MAX"):
        render(";;@ for i in 0..n\n" + "x" * 1000 + "\n;;@ end", n=17_000)


def test_every_template_is_in_the_manifest_and_every_entry_is_a_file():
    manifest = tomllib.loads(asset("wasm_kernels", "manifest.toml").read_text())
    named = set(re.findall(r'= "([a-z0-9_]+/[a-z0-9_]+[.]wat)"', asset("wasm_kernels", "manifest.toml").read_text()))
    root = asset("wasm_kernels")
    assert named == {str(path.relative_to(root)) for path in root.rglob("*.wat")}
    assert all(asset("wasm_kernels", golden).is_file() for golden in manifest["dense_f32"]["golden"])
    module, _, name = manifest["dense_f32"]["reference"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def test_every_activation_has_a_template_a_placement_and_a_reference():
    placements = library().placements
    for name in ACTIVATIONS:
        assert placements[name] in ("none", "pass", "row")
        assert (placements[name] == "none") == (name not in library().templates)
        assert name in reference.FUNCTIONS and name in bits.FUNCTIONS
    assert {"x86-64", "aarch64"} <= set(library().tiles)


def test_unknown_names_are_refused():
    with pytest.raises(LocalError, match="no template 'conv'"):
        library().find("conv")
    with pytest.raises(LocalError, match="expected one of aarch64, x86-64, found 'mips'"):
        library().tile("mips")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('placement = "row"', 'placement = "column"', "activations.softmax.placement"),
        ("[activations.softmax]", "[activations.softmin]", "no activation softmax"),
        ("\nunroll = 32 ", "\nunroll = 0 ", "tiles.x86-64"),
        ("unroll_many", "unroll_more", "tiles.x86-64"),
        ('template = "activations/tanh.wat"', "template = 3", "TypeError"),
        ("abi = 1", "abi =", "TOMLDecodeError"),
        ("abi = 1", "abi = 2", "expected abi 1, found 2"),
        ("[dense_f32.templates]", "[dense_f64.templates]", "KeyError"),
    ],
)
def test_manifest_is_checked(tmp_path, monkeypatch, old, new, text):
    source = asset("wasm_kernels", "manifest.toml").read_text()
    assert old in source
    (tmp_path / "manifest.toml").write_text(source.replace(old, new))
    shipped = library_module.asset
    monkeypatch.setattr(
        library_module,
        "asset",
        lambda area, name: tmp_path / name if name == "manifest.toml" else shipped(area, name),
    )
    with pytest.raises(LocalError, match=text):
        library_module.library.__wrapped__()
