"""Xet, the Hub's other store for large files, as far as a loopback test needs it: what ``hf_xet`` sends comes back.

The client cuts a file into chunks, sends them in blocks called xorbs, and then a shard, which says of which chunks in
which xorbs the file is made; to read it, it asks for that list and for ranges of the xorbs. Formats: the specification
of the protocol (huggingface.co/docs/xet). Of the real store the rest is left out: hashes are the client's and are
believed, chunks must come uncompressed, and no file of another repository is known.
"""

import re
import struct

from helpers.hub_server import REPOSITORY, Refused, route, sha256

TOKEN = "xet-token"
SECTION = 48  # bytes of every record in a shard
SEGMENTS_CHECKED, SHA_FOLLOWS = 1 << 31, 1 << 30  # flags of a file: what stands behind its segments


@route("GET", REPOSITORY + "/xet-(read|write)-token/(?P<revision>[^/]+)", token=True)
def xet_token(hub, request, kind, name, revision):
    hub.repository(name, kind)
    if not hub.xet:
        raise Refused(404, "this Hub has no Xet")
    about = {"casUrl": hub.storage, "accessToken": TOKEN, "exp": 4102444800}
    return request.answer(
        200,
        about,
        {"X-Xet-Cas-Url": hub.storage, "X-Xet-Access-Token": TOKEN, "X-Xet-Token-Expiration": str(about["exp"])},
    )


@route("POST", "/v1/xorbs/default/(?P<xorb>[0-9a-f]{64})")
def put_xorb(hub, request, xorb):
    check(request)
    hub.xorbs[xorb] = request.body()
    return {"was_inserted": True}


@route("POST", "/v1/shards")
def put_shard(hub, request):
    check(request)
    shard, at = request.body(), SECTION
    while (name := shard[at : at + 32]) != b"\xff" * 32:  # the end of the files
        flags, count = struct.unpack_from("<II", shard, at + 32)
        entries = [at + SECTION * (k + 1) for k in range(count)]
        segments = [(text(shard[k : k + 32]), *struct.unpack_from("<IIII", shard, k + 32)[1:]) for k in entries]
        at += SECTION * (1 + count * (2 if flags & SEGMENTS_CHECKED else 1) + bool(flags & SHA_FOLLOWS))
        content = b"".join(piece for xorb, _, *ends in segments for piece in chunks(hub.xorbs[xorb])[slice(*ends)])
        hub.xet_files[text(name)] = segments
        hub.objects[sha256(content)] = content
        hub.xet_names[sha256(content)] = text(name)
    return {"result": 1}


@route("GET", "/v1/reconstructions/(?P<name>[0-9a-f]{64})")
def reconstruction(hub, request, name):
    check(request)
    asked = re.match(r"bytes=(\d+)-", request.headers.get("Range", "bytes=0-"))
    if int(asked[1]) >= sum(size for _, size, _, _ in hub.xet_files[name]):
        raise Refused(416, "the file ends before")
    terms, places = [], {}
    for xorb, size, first, last in hub.xet_files[name]:
        ends = [0]
        for piece in chunks(hub.xorbs[xorb]):
            ends.append(ends[-1] + 8 + len(piece))
        term = {"start": first, "end": last}
        terms.append({"hash": xorb, "unpacked_length": size, "range": term})
        place = {"url": f"{hub.storage}/xorb/{xorb}", "url_range": {"start": ends[first], "end": ends[last] - 1}}
        places.setdefault(xorb, []).append({**place, "range": term})
    return {"offset_into_first_range": int(asked[1]), "terms": terms, "fetch_info": places}


@route("GET", "/xorb/(?P<xorb>[0-9a-f]{64})")
def part_of_xorb(hub, request, xorb):
    first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"]).groups())
    content = hub.xorbs[xorb]
    return request.answer(206, content[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


def check(request):
    """The store has tokens of its own, and must not see the one of the Hub."""
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        raise Refused(401, "not a token of the store")


def chunks(xorb):
    """The chunks of a xorb; each stands behind 8 bytes: version, size in 3 bytes, compression, size before it in 3."""
    found, at = [], 0
    while at < len(xorb) and xorb[at] == 0:
        size, compression = int.from_bytes(xorb[at + 1 : at + 4], "little"), xorb[at + 4]
        if compression:
            raise Refused(400, "this store knows no compression")
        found.append(xorb[at + 8 : at + 8 + size])
        at += 8 + size
    return found


def text(name):
    """How a hash of 32 bytes is written: as four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", name))
