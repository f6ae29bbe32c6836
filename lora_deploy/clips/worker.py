"""One decoding process: it fences itself in, then decodes the files that the pool hands it.

Started by `lora_deploy.clips.pool` as ``python -m lora_deploy.clips.worker``; of no use by hand.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import socket
import sys
from pathlib import Path

from lora_deploy.clips import fence

DECODERS = {"av": "lora_deploy.clips.decode", "decord": "lora_deploy.clips.decode_decord"}
"""By name: the module whose ``decode_file`` turns an open file into a clip."""

PICTURES = "lora_deploy.clips.decode_pictures"
"""The module whose ``decode`` turns the pictures of a frame folder into a clip, whoever decodes videos."""

_WARM_UP_CLIP = Path(__file__).parents[1] / "assets" / "warm-up.mp4"


def main() -> None:
    """Fence in, say so, and answer until the pool closes its end."""
    options = json.loads(sys.argv[1])
    # 1. Before anything is imported that starts a thread.
    namespaces = fence.leave_namespaces()
    fence.die_with_parent(options["parent_pid"])
    # 2. Everything that decoding will ever import or open.
    from lora_deploy.clips import wire
    from lora_deploy.clips.answers import Answering
    from lora_deploy.clips.clip import Stretch
    from lora_deploy.clips.contract import PixelContract
    from lora_deploy.errors import ClipError

    decoder = importlib.import_module(DECODERS[options["decoder"]])
    tiny = PixelContract(frames=2, short_side=16, crop_height=16, crop_width=16)
    warm_up = _WARM_UP_CLIP.read_bytes()
    for content in (warm_up, warm_up[: len(warm_up) // 2], bytes(64)):
        with contextlib.suppress(ClipError):
            decoder.decode_file(io.BytesIO(content), tiny, options["effort"])
    picture_decoder = importlib.import_module(PICTURES)
    picture_decoder.warm_up()
    answering = Answering(decoder, picture_decoder, options["effort"])
    for _ in answering.parts(io.BytesIO(warm_up), tiny, (Stretch(),)):
        pass
    connection = socket.socket(fileno=options["descriptor"])
    _silence()
    # 3. No way back from here.
    raised = fence.lock_down(
        namespaces=namespaces,
        memory_bytes=options["memory_bytes"],
        processor_seconds=options["processor_seconds"],
        threads=options["decoder"] == "decord",  # it has one of its own for each file
    )
    gc.freeze()  # what is there now stays; no later round has to look at it
    wire.send(connection, wire.Ready(fence=raised))
    # 4. Clip after clip.
    while (job := wire.receive_job(connection)) is not None:
        answering.answer(connection, job)


def _silence() -> None:
    """Nothing that a file makes a decoder say goes anywhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    main()
