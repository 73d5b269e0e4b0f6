"""What the CUDA kernels take of a GPU: registers, shared memory and spills, without one.

    TRITON_INTERPRET=0 python -m nfields.benchmark.compiled [brief] [operation ...]   prints json

brief: all but the first case of a kernel for sm_80 alone, where least fits. Triton compiles for
any architecture, given types of the arguments and values of the constants, and brings NVIDIA's
assembler with it. CASES are the kernels as the models of this project use them. A thread has at
most 255 registers; what does not fit is spilled to local memory, which is memory.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHITECTURES = (80, 90, 120)  # A100, H100, RTX 50

_FLOATS = (
    "rate keep1 keep2 root2 eps weight_decay lr num_steps "
    "limit near dt_min dt_max cone half_size scale"
).split()
_POINTERS = {
    "layout_ptr": "*i64", "offsets_ptr": "*i64", "bits_ptr": "*u8", "coarse_ptr": "*u8",
    "nearest_ptr": "*i32", "leaf_ptr": "*i32", "link_ptr": "*i32", "index_ptr": "*i32",
    "leaf_starts_ptr": "*i64", "pairs_ptr": "*i64", "pair_starts_ptr": "*i64",
    "coefficients_ptr": "*fp64", "numbers_ptr": "*fp64",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A kernel with its constants; `types` of arguments that are not the usual float32."""

    kernel: str  # operation.kernel
    constants: dict[str, Any]
    types: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """kernel[constants, types, options], as the table has it."""
        parts = {**self.constants, **self.types, **self.options}
        return f"{self.kernel}[{', '.join(f'{k}={v}' for k, v in parts.items())}]"


def _grid(kernel: str, dim: int, features: int, **types: str) -> Case:
    constants = {"DIM": dim, "FEATURES": features, "SMOOTHSTEP": False, "BLOCK": 128}
    return Case(f"grid_encode.{kernel}", constants, types)


def _mlp(kernel: str, product: str, **constants: Any) -> Case:
    shared = {"WIDTH": 64, "SINE": False, "PRODUCT": product, "BLOCK": 32}
    names = {"forward": ["kept_ptr"], "backward": ["kept_ptr", "back_ptr"]}
    types = dict.fromkeys(names.get(kernel, ["inputs_ptr", "back_ptr"]), f"*{product}")
    return Case(f"mlp.{kernel}_kernel", {**shared, **constants}, types, {"num_warps": 8})


def _rbf(kernel: str, num_neurons: int) -> Case:
    sizes = {"NEURONS": num_neurons, "DIM": 32, "BLOCK": 32}
    return Case(f"rbf_decode.{kernel}_kernel", sizes, options={"num_warps": 8})


def _interp(kernel: str, dim: int) -> Case:
    sizes = {"KERNEL": "ivq", "DIM": dim, "SHAPE": dim * (dim + 1) // 2, "NORMALIZE": True}
    return Case(
        f"rbf_interp.{kernel}_kernel", {**sizes, "SINES": True, "FEATURES": 32, "BLOCK": 32}
    )


def _render(**constants: Any) -> Case:
    return Case(
        "render.render_kernel", {**constants, "SMOOTHSTEP": False, "OUT": 64, "RAYS": 16},
        options={"num_warps": 4},
    )  # fmt: skip


_MARCH = {"num_warps": 1, "enable_fp_fusion": False}
CASES = [
    *(
        Case(
            "adam.adam_kernel",
            {"SKIP_ZERO": skip, "HAS_COPY": half, "SCALED": half, "LOADED": held, "BLOCK": 1024},
            {"copy_ptr": "*fp16"} if half else {},
        )
        for skip, half, held in (
            (True, False, False), (False, False, False), (True, True, False), (True, True, True)
        )
    ),
    Case("composite.composite_kernel", {"CHANNELS": 4, "TILE": 32}, {}, {"num_warps": 1}),
    Case("composite.composite_backward_kernel", {"CHANNELS": 4, "TILE": 32}, {}, {"num_warps": 1}),
    Case("distortion.distortion_kernel", {"TILE": 32}, {}, {"num_warps": 1}),
    Case("distortion.distortion_backward_kernel", {"TILE": 32}, {}, {"num_warps": 1}),
    _grid("encode_kernel", 3, 2),
    _grid("encode_kernel", 3, 4, table_ptr="*fp16"),
    _grid("encode_kernel", 3, 8),
    _grid("encode_kernel", 2, 4),
    _grid("table_gradient_kernel", 3, 2),
    _grid("table_gradient_kernel", 3, 4),
    _grid("table_gradient_kernel", 2, 4),
    _grid("point_gradient_kernel", 3, 2),
    _grid("point_gradient_kernel", 3, 4),
    *(
        Case("harmonics.harmonics_kernel", {"BITS": bits, "ORDERS": orders, "BLOCK": 256 // orders})
        for bits, orders in ((4, 16), (8, 256))
    ),
    *(
        Case(
            "march.march_kernel",
            {"CASCADES": cascades, "HAS_CONE": cone, "WRITE": write, "RAYS": 32},
            options=_MARCH,
        )
        for cascades, cone in ((1, False), (5, True))
        for write in (False, True)
    ),
    *(
        Case(
            "march_contracted.march_contracted_kernel", {"WRITE": write, "RAYS": 32},
            options=_MARCH,
        )
        for write in (False, True)
    ),
    Case("march.points_kernel", {"TILE": 32}, {}, {"num_warps": 1}),
    _mlp("forward", "fp32", ACTIVATE_LAST=False, KEEP=True),
    _mlp("forward", "bf16", ACTIVATE_LAST=False, KEEP=True),
    _mlp("backward", "fp32", ACTIVATE_LAST=True, NEEDS_X=True, SCALED=False),
    _mlp("backward", "fp16", ACTIVATE_LAST=False, NEEDS_X=True, SCALED=True),
    _mlp("weight_gradient", "fp32"),
    _mlp("weight_gradient", "bf16"),
    Case("rbf_decode.responses_kernel", {"NEURONS": 32, "BLOCK": 64}),
    Case("rbf_decode.responses_kernel", {"NEURONS": 64, "BLOCK": 64}),
    Case(
        "rbf_decode.readout_kernel", {"OUT": 16, "CHUNK": 32, "TILE": 16},
        options={"num_warps": 1, "num_stages": 1},
    ),
    Case(
        "rbf_decode.readout_backward_kernel", {"OUT": 16, "CHUNK": 64, "TILE": 16},
        options={"num_warps": 4, "num_stages": 1},
    ),
    *(
        Case(
            "rbf_interp.search_kernel", {"DIM": dim, "NEIGHBORS": num, "BLOCK": 128},
            options={"enable_fp_fusion": False},
        )
        for dim, num in ((2, 4), (3, 8))
    ),
    *(_interp(kernel, dim) for kernel in ("interp", "point_gradient") for dim in (2, 3)),
    Case(
        "rbf_interp.feature_gradient_kernel", {"SINES": True, "FEATURES": 32, "TILE": 32},
        options={"num_warps": 1},
    ),
    _render(GAUSSIAN=True, LINEAR=True, FEATURES=4, WIDTH=64, CASCADES=1, HAS_CONE=False),
    _render(GAUSSIAN=False, LINEAR=False, FEATURES=2, WIDTH=64, CASCADES=3, HAS_CONE=True),
    *(_rbf(kernel, num) for kernel in ("features_gradient", "moments") for num in (32, 64)),
]  # fmt: skip


def resources(case: Case, architecture: int) -> dict[str, int]:
    """Registers a thread, spilled bytes a thread, and shared bytes a program."""
    operation, name = case.kernel.split(".")
    kernel = getattr(importlib.import_module(f"nfields.ops.{operation}.cuda"), name)
    constants = {
        key: getattr(triton.language, {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[v])
        if key == "PRODUCT"
        else v
        for key, v in case.constants.items()
    }
    signature, constexprs, attributes = {}, {}, {}
    for k, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument], constexprs[(k,)] = "constexpr", constants[argument]
        elif argument in case.types:
            signature[argument] = case.types[argument]
        elif argument.endswith("_ptr"):
            signature[argument] = _POINTERS.get(argument, "*fp32")
        else:
            signature[argument] = "fp32" if argument in _FLOATS else "i32"
        if argument.endswith("_ptr"):
            attributes[(k,)] = [["tt.divisibility", 16]]  # as PyTorch allocates
    source = ASTSource(kernel, signature, constexprs, attributes)
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options=dict(case.options))
    return _usage(compiled.asm["cubin"]) | {"shared": compiled.metadata.shared}


def _usage(cubin: bytes) -> dict[str, int]:
    tool = Path(str(triton.__file__)).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = {}
    for word in output.split():
        key, _, value = word.partition(":")
        if value.isdigit():
            values[key] = int(value)
    return {"registers": values["REG"], "spilled": values["STACK"] + values["LOCAL"]}


def table(operations: Sequence[str], brief: bool) -> dict[str, dict[str, dict[str, int]]]:
    """{case: {"sm_80": {"registers": .., "spilled": .., "shared": ..}, ..}} of some operations."""
    found, kernels = {}, set()
    for case in CASES:
        if case.kernel.split(".")[0] in operations:
            architectures = ARCHITECTURES[:1] if brief and case.kernel in kernels else ARCHITECTURES
            kernels.add(case.kernel)
            found[case.name] = {f"sm_{arch}": resources(case, arch) for arch in architectures}
    return found


if __name__ == "__main__":
    known = list(dict.fromkeys(case.kernel.split(".")[0] for case in CASES))
    words = sys.argv[1:]
    chosen = [word for word in words if word != "brief"] or known
    print(json.dumps({"triton": triton.__version__, **table(chosen, "brief" in words)}, indent=1))
