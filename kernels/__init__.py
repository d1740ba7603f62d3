"""Triton kernels: launchers with the arguments of their operation, imported on first use."""

if __name__ != "hashfast.kernels":
    raise ImportError(
        f'this package is part of hashfast: import "hashfast.kernels", not {__name__!r}'
    )
