"""The headers of codestreams, which say how large pixels are before anything is decoded."""


def segment(data: bytes, at: int, marker: bytes) -> int:
    """Where the content of the first segment of a marker begins, of those that follow each other from ``at`` on.

    Raises:
        ValueError: the data end before it.
    """
    while data[at : at + 2] != marker:
        if at + 4 > len(data):
            raise ValueError(f"its header ends before the marker {marker.hex()}")
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return at + 4
