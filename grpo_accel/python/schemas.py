"""Are PyTorch's operators still those that the provider `torch` was written for?

The provider calls operators by name through PyTorch's C shim, which can't print signatures; Python can. An operator
with another signature would be handed the wrong arguments, so the session then computes natively.
"""

from __future__ import annotations

import ctypes


def expected(library: ctypes.CDLL) -> str:
    """The library's list, one "name<tab>signature" a line; empty where the library has none."""
    try:
        function = library.ga_torch_schemas
    except AttributeError:
        return ""
    function.restype = ctypes.c_char_p
    return function().decode()


def changed(listing: str) -> list:
    """Names of listed operators that this PyTorch lacks or has with another signature."""
    import torch

    found = []
    for line in listing.splitlines():
        name, _, signature = line.partition("\t")
        packet, _, overload = name.partition(".")
        try:
            ours = str(getattr(getattr(torch.ops.aten, packet), overload or "default")._schema)
        except AttributeError:
            ours = ""
        if ours != signature:
            found.append(name)
    return found
