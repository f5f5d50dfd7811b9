"""`edge-centernet export-c`: its header compiles and agrees with the library; the example finds the boxes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_centernet
from edge_centernet import selftest
from edge_centernet.artifact import read_manifest
from edge_centernet.cli.export_c import LIBRARY, header, identifier
from edge_centernet.converters import convert
from edge_centernet.decoder import decode
from edge_centernet.errors import ArtifactError
from edge_centernet.imageio import read_image
from edge_centernet.manifest import PER_CLASS, Manifest, Quant
from edge_centernet.model_zoo import find_model
from edge_centernet.preprocess import prepare
from edge_centernet.runtimes import open_runtime

Run = Callable[..., Any]
MODEL, NAME = "centernet-nano-256", "centernet_nano_256"
NO_SCORES: dict[str, Any] = dict.fromkeys(PER_CLASS, ())
ENGINE = {"int8 NHWC": "tflite", "float NCHW": "onnxruntime"}
ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "edge_centernet" / "decoder" / "example" / "detect_dump.c"
STRICT = ["-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The nano model in int8 for TFLite and in float for ONNX Runtime."""
    (onnx,) = convert(find_model(MODEL, ".onnx"), ["onnx"], "fp32", tmp_path_factory.mktemp("fp32"))
    return {"int8 NHWC": find_model(MODEL, ".tflite"), "float NCHW": onnx.path}


def call(*command: str | Path) -> str:
    """Standard output; fails the test with everything the command said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def compile_and_run(compiler: str, folder: Path, text: str, name: str = NAME) -> str:
    """What a C program prints that includes the header in `folder`."""
    source = folder / "program.c"
    source.write_text(f'#include <stdio.h>\n#include <string.h>\n#include "{name}_model.h"\n{text}')
    flags = ["-std=c99", *STRICT, f"-I{LIBRARY}"]
    call(compiler, *flags, source, LIBRARY / "edgecn_decode.c", "-o", folder / "program")
    return call(folder / "program")


def written(folder: Path, manifest: Manifest, name: str = NAME) -> Path:
    """The folder, with the header of a manifest in it."""
    (folder / f"{name}_model.h").write_text(
        header(manifest, name, find_model(MODEL, ".tflite")), encoding="ascii"
    )
    return folder


def test_folder_holds_all_that_is_needed(run: Run, tmp_path: Path) -> None:
    """The header and the library's files, each named on standard output; a second run changes nothing."""
    out = tmp_path / "firmware" / "detector"
    done = run("export-c", MODEL, "--out", out)
    assert done.code == 0
    library = {path.name: path.read_bytes() for path in LIBRARY.glob("edgecn_*.[ch]")}
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(found) == set(library) | {f"{NAME}_model.h", f"{NAME}_golden.h"}
    assert library.items() <= found.items()
    assert {"edgecn_decode.c", "edgecn_decode.h"} <= set(library)
    assert set(done.out.splitlines()[:-1]) == {str(out / name) for name in found}
    assert done.out.splitlines()[-1].endswith("heat int8 NHWC, size int8 NHWC, offset int8 NHWC")

    run("export-c", MODEL, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == found


@pytest.mark.parametrize("kind", ENGINE)
def test_example_finds_the_boxes_that_python_finds(
    run: Run, models: dict[str, Path], kind: str, compiler: str, tmp_path: Path
) -> None:
    """From dumped heads of the sample photo the same classes, scores and boxes to the bit: person, cat."""
    run("export-c", models[kind], "--out", tmp_path)
    program = tmp_path / "detect_dump"
    call(compiler, "-std=c99", *STRICT, f"-I{tmp_path}", EXAMPLE, tmp_path / "edgecn_decode.c", "-o", program)

    runtime = open_runtime(models[kind], ENGINE[kind])
    manifest = runtime.manifest
    photo = read_image(Path(edge_centernet.__file__).parent / "assets" / "sample.jpg")
    heads = runtime.run(prepare(photo, manifest)[0])
    found = decode(heads, manifest, threshold=manifest.model.threshold)
    dumps = []
    for role, head in heads._asdict().items():
        dumps.append(tmp_path / f"{role}.bin")
        stored = head if getattr(manifest, role).layout == "NCHW" else head.transpose(1, 2, 0)
        dumps[-1].write_bytes(stored.tobytes())
    runtime.close()

    names = manifest.model.classes
    expected = [
        f"{i} {names[i]} {' '.join(f'{value:.9g}' for value in (score, *box))}"
        for box, score, i in zip(
            found.xyxy.tolist(), found.score.tolist(), found.class_id.tolist(), strict=True
        )
    ]
    assert call(program, *dumps).splitlines() == expected
    assert {"person", "cat"} <= {line.split()[1] for line in expected}


def test_example_refuses_a_dump_of_another_size(run: Run, compiler: str, tmp_path: Path) -> None:
    """A heatmap one byte short is named with the 20480 bytes expected, exit code 2."""
    run("export-c", MODEL, "--out", tmp_path)
    call(compiler, f"-I{tmp_path}", EXAMPLE, tmp_path / "edgecn_decode.c", "-o", tmp_path / "detect_dump")
    (tmp_path / "short").write_bytes(bytes(20479))
    done = subprocess.run(
        [tmp_path / "detect_dump", *[tmp_path / "short"] * 3], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, f"{tmp_path / 'short'}: expected a file of 20480 bytes\n")


def test_c_code_of_the_docs_compiles(run: Run, compiler: str, tmp_path: Path) -> None:
    """The blocks in docs/decoder.md, without a warning."""
    blocks = re.findall(r"```c\n(.*?)```", (ROOT / "docs" / "decoder.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 3
    run("export-c", MODEL, "--out", tmp_path)
    (tmp_path / "find.c").write_text("".join(blocks))
    call(compiler, "-std=c99", *STRICT, "-c", tmp_path / "find.c", "-o", tmp_path / "find.o")


def checked_by_c(run: Run, model: Path, compiler: str, folder: Path) -> Callable[..., str]:
    """The program that a user would write around NAME_golden.h; called with heads, it prints its verdict."""
    run("export-c", model, "--out", folder)
    (folder / "check.c").write_text(f"""
#include <stdio.h>
#include "{NAME}_golden.h"
static {NAME}_input_type input[{NAME}_input_count];
static {NAME}_heat_type heat[{NAME}_heat_count];
static {NAME}_size_type size[{NAME}_size_count];
static {NAME}_offset_type offset[{NAME}_offset_count];
int main(int argc, char **argv)
{{
    FILE *file = fopen(argv[1], "wb");
    {NAME}_golden_input(input);
    if (!file || !fwrite(input, sizeof input, 1, file) || fclose(file)) {{
        return 2;
    }}
    if (argc > 2) {{
        file = fopen(argv[2], "rb");
        if (!file || !fread(heat, sizeof heat, 1, file) || !fread(size, sizeof size, 1, file)
            || !fread(offset, sizeof offset, 1, file) || fclose(file)) {{
            return 2;
        }}
        printf("%d %.2f %.2f %.2f", {NAME}_golden_check(heat, size, offset),
               (double){NAME}_golden_heat_steps(heat), (double){NAME}_golden_size_steps(size),
               (double){NAME}_golden_offset_steps(offset));
    }}
    return 0;
}}
""")
    flags = ["-std=c99", *STRICT, f"-I{folder}", "-O2"]
    call(compiler, *flags, folder / "check.c", folder / "edgecn_decode.c", "-o", folder / "check")

    def check(*tensors: Any) -> str:
        """The tensors as an engine leaves them."""
        (folder / "heads.bin").write_bytes(b"".join(tensor.tobytes() for tensor in tensors))
        return call(folder / "check", folder / "input.bin", *([folder / "heads.bin"] if tensors else []))

    return check


@pytest.mark.parametrize("kind", ENGINE)
def test_golden_vectors_know_a_right_engine_from_a_wrong_one(
    run: Run, models: dict[str, Path], kind: str, compiler: str, tmp_path: Path
) -> None:
    """In C: the self-test's input to the byte; its answers pass without a difference, changed ones do not."""
    check = checked_by_c(run, models[kind], compiler, tmp_path)
    runtime = open_runtime(models[kind], ENGINE[kind], threads=1)
    manifest = runtime.manifest
    check()
    x = np.fromfile(tmp_path / "input.bin", manifest.input.dtype).reshape(manifest.input.shape)
    assert np.array_equal(x, selftest.test_input(manifest))

    nchw = manifest.heat.layout == "NCHW"
    heads = [np.array(head if nchw else head.transpose(1, 2, 0)) for head in runtime.run(x)]
    runtime.close()
    assert check(*heads) == "0 0.00 0.00 0.00"
    for number in (1, 2, 3):
        wrong = [np.roll(head, 7) if i + 1 == number else head for i, head in enumerate(heads)]
        assert check(*wrong)[0] == str(number)
    assert check(*(np.zeros_like(head) for head in heads))[0] != "0"


@pytest.mark.parametrize("kernels", ["BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"])
def test_tflites_own_kernels_are_within_the_tolerance(
    run: Run, kernels: str, compiler: str, tmp_path: Path
) -> None:
    """Those of microcontrollers round otherwise than XNNPACK, by some steps: golden vectors allow it."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="pip install '.[tflite]'")
    model = find_model(MODEL, ".tflite")
    check = checked_by_c(run, model, compiler, tmp_path)
    engine = interpreter.Interpreter(
        model_content=model.read_bytes(),
        num_threads=1,
        experimental_op_resolver_type=interpreter.OpResolverType[kernels],
    )
    engine.allocate_tensors()
    engine.set_tensor(engine.get_input_details()[0]["index"], selftest.test_input(read_manifest(model)))
    engine.invoke()
    found = {tensor["name"]: engine.get_tensor(tensor["index"]) for tensor in engine.get_output_details()}
    verdict, *steps = check(*(found[role] for role in ("heat", "size", "offset"))).split()
    assert verdict == "0"
    assert all(float(value) > 1 for value in steps)


@pytest.mark.parametrize("kind", ENGINE)
def test_header_is_also_cpp(run: Run, models: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """A C++ compiler takes the header without a warning."""
    cpp = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if cpp is None:
        pytest.skip("no C++ compiler: install g++ or clang++")
    run("export-c", models[kind], "--out", tmp_path)
    source = tmp_path / "program.cpp"
    source.write_text(f'#include "{NAME}_golden.h"\nint classes() {{ return {NAME}_classes; }}\n')
    call(cpp, *STRICT, "-c", source, "-o", tmp_path / "program.o")


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", 57), ("uint8", 185)])
def test_table_is_that_of_the_library(dtype: str, zero_point: int, compiler: str, tmp_path: Path) -> None:
    """All 256 probabilities equal those of ecn_probability_table, bit for bit."""
    manifest = read_manifest(find_model(MODEL, ".tflite"))
    assert manifest.heat.quant
    heat = replace(manifest.heat, dtype=dtype, quant=Quant(manifest.heat.quant.scale, zero_point))
    program = f"""
int main(void)
{{
    static const {NAME}_heat_type heat[1];
    float table[256];
    const ecn_heads heads = {NAME}_heads(heat, NULL, NULL);
    const int32_t error = ecn_probability_table(&heads.heat, table);
    printf("%d %d", (int)error, memcmp(table, {NAME}_probability, sizeof table));
    return 0;
}}
"""
    assert compile_and_run(compiler, written(tmp_path, replace(manifest, heat=heat)), program) == "0 0"


@pytest.mark.parametrize("kind", ENGINE)
def test_only_a_quantized_heatmap_of_logits_has_a_table(models: dict[str, Path], kind: str) -> None:
    """There is one for int8 logits, none for floats, and none for int8 probabilities."""
    manifest = read_manifest(models[kind])
    assert (f"{NAME}_probability[256]" in header(manifest, NAME, models[kind])) == (kind == "int8 NHWC")
    probabilities = replace(manifest, model=replace(manifest.model, heat_unit="probability"))
    assert f"{NAME}_probability[256]" not in header(probabilities, NAME, models[kind])


@pytest.mark.parametrize(
    ("unit", "threshold", "value"),
    [
        ("logit", 0.3, "-0.847297847"),
        ("logit", 0.0, "-inf"),
        ("logit", 1.0, "inf"),
        ("probability", 0.3, "0.300000012"),
    ],
)
def test_threshold_is_in_the_unit_of_the_heatmap(
    unit: Any, threshold: float, value: str, compiler: str, tmp_path: Path
) -> None:
    """A probability of 0.3 is float32(log(0.3 / 0.7)) for logits; 0 and 1 are the infinities."""
    manifest = read_manifest(find_model(MODEL, ".tflite"))
    manifest = replace(manifest, model=replace(manifest.model, heat_unit=unit, threshold=threshold))
    program = f'int main(void) {{ printf("%.9g", (double){NAME}_threshold); return 0; }}\n'
    assert compile_and_run(compiler, written(tmp_path, manifest), program) == value


@pytest.mark.parametrize("scale", [2.0**-149, 1 / 3, 1.0, 3e38])
def test_scale_is_exact(scale: float, compiler: str, tmp_path: Path) -> None:
    """The scale in the header is the manifest's, rounded to float32."""
    manifest = read_manifest(find_model(MODEL, ".tflite"))
    manifest = replace(manifest, size=replace(manifest.size, quant=Quant(scale, 3)))
    program = f"""
int main(void)
{{
    const ecn_heads heads = {NAME}_heads(NULL, NULL, NULL);
    printf("%.9g", (double)heads.size.scale);
    return 0;
}}
"""
    printed = compile_and_run(compiler, written(tmp_path, manifest), program)
    assert np.float32(printed) == np.float32(scale)


def test_the_models_thresholds_are_those_of_the_c_code(compiler: str, tmp_path: Path) -> None:
    """Logits of 0.5 for the first class and 0.75 for the second, in the heads as in the table; else none."""
    manifest = read_manifest(find_model(MODEL, ".tflite"))
    plain = replace(manifest.model, **NO_SCORES)
    own = replace(plain, class_thresholds=(0.5, 0.75, *[0.3] * (len(plain.classes) - 2)))
    program = f"""
int main(void)
{{
    const ecn_heads heads = {NAME}_heads(NULL, NULL, NULL);
    if (!heads.class_threshold) {{
        puts("none");
        return 0;
    }}
    printf("%.9g %.9g", (double)heads.class_threshold[0], (double)heads.class_threshold[1]);
    return 0;
}}
"""
    printed = []
    for folder, model in (("plain", plain), ("own", own)):
        (tmp_path / folder).mkdir()
        printed.append(
            compile_and_run(compiler, written(tmp_path / folder, replace(manifest, model=model)), program)
        )
    assert printed[0] == "none\n"
    assert [float(value) for value in printed[1].split()] == pytest.approx([0.0, np.log(3)], rel=1e-6)


def test_names_survive_whatever_they_hold(compiler: str, tmp_path: Path) -> None:
    """Quotes, trigraphs, comment ends, blanks and other alphabets in names do no harm and are kept."""
    names = ('a "b"', "back\\slash", "what??/", "*/ end", "two  blanks", "größe 7")
    manifest = read_manifest(find_model(MODEL, ".tflite"))
    model = replace(manifest.model, name="*/ 3 D", version='1"??/', classes=names, **NO_SCORES)
    heat = replace(manifest.heat, shape=(*manifest.heat.shape[:3], len(names)))
    name = identifier(model.name)
    program = f"""
int main(void)
{{
    for (int i = 0; i < {name}_classes; ++i) {{
        printf("%s|", {name}_class_names[i]);
    }}
    return 0;
}}
"""
    folder = written(tmp_path, replace(manifest, model=model, heat=heat), name)
    assert compile_and_run(compiler, folder, program, name) == "|".join(names) + "|"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("centernet-mbv2-320", "centernet_mbv2_320"),
        ("My  Net!", "my_net"),
        ("3d", "model_3d"),
        ("ecn", "model_ecn"),
        ("größe", "gr_e"),
        ("", "model"),
    ],
)
def test_identifier_is_one_in_c(name: str, expected: str) -> None:
    """Lower case, single underscores, a letter first, and none of the library's own names."""
    assert identifier(name) == expected


@pytest.mark.parametrize(
    "name", ["none.tflite", "nonesuch", "photo.jpg", "cut.tflite", "weights.safetensors"]
)
def test_what_is_no_model_is_refused(
    run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, exit code 2, and no folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    (tmp_path / "cut.tflite").write_bytes(find_model(MODEL, ".tflite").read_bytes()[:100_000])
    done = run("export-c", name, "--out", "firmware")
    assert done.code == 2
    assert done.err.startswith("Error: ")
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "firmware").exists()


def test_a_changed_file_is_refused(run: Run, tmp_path: Path) -> None:
    """One bit of the weights is enough: what the manifest says may not hold for it."""
    data = bytearray(find_model(MODEL, ".tflite").read_bytes())
    data[200_000] ^= 1
    (tmp_path / "changed.tflite").write_bytes(data)
    done = run("export-c", tmp_path / "changed.tflite", "--out", tmp_path / "firmware")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "not what its manifest was written for" in done.err


def test_a_head_that_c_cannot_decode_is_refused(tmp_path: Path) -> None:
    """A scale of 1e300 is no float: the error names the head."""
    manifest = read_manifest(find_model(MODEL, ".tflite"))
    manifest = replace(manifest, offset=replace(manifest.offset, quant=Quant(1e300, 0)))
    with pytest.raises(ArtifactError, match="offset head: expected a scale that float32 can hold"):
        header(manifest, NAME, find_model(MODEL, ".tflite"))


def test_a_folder_that_cannot_be_written_is_refused(run: Run, tmp_path: Path) -> None:
    """A file in place of a folder above --out: one line, exit code 2."""
    (tmp_path / "file").write_bytes(b"")
    done = run("export-c", MODEL, "--out", tmp_path / "file" / "firmware")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
