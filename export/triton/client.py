"""A client of Triton: video files in, labels out; all else that it needs, the server tells it.

pip install lora-deploy "tritonclient[grpc]"
python export/triton/client.py [--url localhost:8001] [--model recogniser_frames] CLIP...
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc  # type: ignore[import-untyped]

from lora_deploy.clips import pool, transforms
from lora_deploy.clips.contract import PixelContract


class Model:
    """One model of a server."""

    def __init__(self, url: str, name: str) -> None:
        self.client = grpc.InferenceServerClient(url)
        self.name = name
        config = self.client.get_model_config(name).config
        told = {key: value.string_value for key, value in config.parameters.items()}
        self.labels: list[str] = json.loads(told["labels"])
        self.contract = PixelContract.model_validate_json(told["pixel_contract"])
        self.temperature: float = json.loads(told["temperature"])
        self.input, self.output = config.input[0].name, config.output[0].name

    def probabilities(self, clip: Path) -> NDArray[np.float32]:
        """Of one video file, [labels]; it is decoded here, fenced, and only frames are sent."""
        frames = pool.shared().decode(clip, self.contract).frames[None]
        if (
            self.input == "frames"
        ):  # the graph prepares the pixels, and its answers are probabilities
            [result] = self.ask(frames, "UINT8")
            return np.asarray(result)
        [logits] = self.ask(transforms.normalise(frames, self.contract), "FP32")
        odds = np.exp((logits - logits.max()) / self.temperature)
        return np.asarray(odds / odds.sum())

    def ask(self, batch: NDArray[np.generic], kind: str) -> NDArray[np.float32]:
        """What the model answers: [batch, labels]."""
        given = grpc.InferInput(self.input, list(batch.shape), kind)
        given.set_data_from_numpy(batch)
        answer: NDArray[np.float32] | None = self.client.infer(self.name, [given]).as_numpy(
            self.output
        )
        assert answer is not None
        return answer


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line a clip: its name, its label, and how likely that is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--url", default="localhost:8001", help="of Triton's gRPC")
    parser.add_argument("--model", default="recogniser_frames")
    options = parser.parse_args(arguments)
    model = Model(options.url, options.model)
    for clip in options.clips:
        probabilities = model.probabilities(clip)
        best = int(probabilities.argmax())
        print(f"{clip}\t{model.labels[best]}\t{probabilities[best]:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
