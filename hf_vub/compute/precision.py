"""The dtype that a device computes fastest in."""

import torch


def compute_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a name; "auto" is bfloat16 where the device multiplies it faster, else float32.

    Raises:
        ValueError: for any other name.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}; it must be 'auto', 'float32' or 'bfloat16'")
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    if device.type == "cpu":
        tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        fast = any(getattr(torch.cpu, test, bool)() for test in tests)
    else:
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if fast else torch.float32
