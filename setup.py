"""Only the C decoder; everything else is in setup.cfg, which cannot describe extensions."""

from setuptools import Extension, setup

decoder = Extension(
    "edge_centernet.decoder._decoder",
    sources=["edge_centernet/decoder/_glue.c", "edge_centernet/decoder/edgecn_decode.c"],
    depends=["edge_centernet/decoder/edgecn_decode.h"],
    define_macros=[("Py_LIMITED_API", "0x030A0000")],
    # A fused multiply-add would change the last bit of a box; loops over cells become vectors.
    extra_compile_args=["-ffp-contract=off", "-O3"],
    py_limited_api=True,
    optional=True,  # without a compiler the NumPy decoder serves: same boxes, slower
)
setup(ext_modules=[decoder])
