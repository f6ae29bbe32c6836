"""Writes the clips that decoders are proved with, and what their pictures show, into the package's assets."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from lora_deploy.clips.proof import CONTRACT, FOLDER, KnownClip
from tests.truth_clips import Recipe, TruthClip, write_truth_clip

_PLAIN = Recipe("libx264", "mp4", small=True, pictures=24, gop=8, b_frames=2)

RECIPES = {
    # Longer than the first second, so that a look at the beginning alone is seen.
    "plain.mp4": replace(_PLAIN, pictures=60),
    "turned.mp4": replace(_PLAIN, clockwise=90),
    "variable-rate.mp4": replace(_PLAIN, rate="slow_first"),
    # In these two decord by itself gives other frames without a word.
    "edit-list.mp4": replace(_PLAIN, pictures=32, cut_head=5, cut_tail=3),
    "open-groups.mkv": replace(_PLAIN, container="mkv", open_gop=True),
}


def truth(clip: TruthClip) -> KnownClip:
    """What a clip shows, from what was written and not from what a decoder says."""
    return KnownClip(
        shown=clip.numbers,
        expected=tuple(clip.expected(CONTRACT)),
        variable_rate=clip.recipe.rate == "slow_first",
    )


def write(folder: Path) -> None:
    """Write the clips and ``truth.json`` into ``folder``."""
    known = {}
    with tempfile.TemporaryDirectory() as work:
        for name, recipe in RECIPES.items():
            clip = write_truth_clip(Path(work), recipe)
            (folder / name).write_bytes(clip.path.read_bytes())
            known[name] = truth(clip).model_dump()
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(clip)}" for name, clip in known.items())
    (folder / "truth.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
