"""How much a request may carry beside its picture."""

from __future__ import annotations

from typing import Any

from vla_retrieval.errors import InvalidInputError

_PICTURES = frozenset({"image", "compressed_image"})  # max_image_megapixels bounds those
_BYTES_OF_A_NUMBER = 8


def check_request_size(request: Any, max_bytes: int) -> None:
    """Refuse a request whose texts and lists are larger than an entry should ever be.

    Checked before anything is made of them: what is stored is read again with each match.

    Args:
        request: Of any of the services.
        max_bytes: Most bytes of UTF-8 and of numbers, pictures left out.

    Raises:
        InvalidInputError: If it is larger; it names the largest field.
    """
    sizes = {
        name: size_bytes(getattr(request, name))
        for name in request.get_fields_and_field_types()
        if name not in _PICTURES
    }
    total = sum(sizes.values())
    if total > max_bytes:
        largest = max(sizes, key=lambda name: sizes[name])
        raise InvalidInputError(
            largest, f"at most {max_bytes} bytes in a request beside its image",
            f"{sizes[largest]} bytes, {total} in all", "Send less, or raise max_request_kb.",
        )  # fmt: skip


def pictures_bytes(request: Any) -> int:
    """Return how many bytes of pictures a request of any of the services carries."""
    return sum(len(getattr(request, name).data) for name in _PICTURES if hasattr(request, name))


def size_bytes(value: Any) -> int:
    """Return about how many bytes a field of a message fills."""
    if isinstance(value, str):
        return len(value.encode(errors="surrogatepass"))
    if hasattr(value, "get_fields_and_field_types"):
        return sum(size_bytes(getattr(value, name)) for name in value.get_fields_and_field_types())
    if hasattr(value, "itemsize"):  # an array of numbers
        return len(value) * int(value.itemsize)
    if isinstance(value, (list, tuple)):
        return sum(map(size_bytes, value))
    return _BYTES_OF_A_NUMBER
