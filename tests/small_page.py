"""A page of one button in place of the real one: what the server does, it does for any page."""

import threading
import time
from pathlib import Path
from typing import Any

import gradio

from lora_deploy.demo.server import in_a_loop
from lora_deploy.demo.uploads import settle


class SmallPage:
    """Blocks with the endpoints ``classify`` (size of a file), ``timeline`` (slow) and ``leak``."""

    def __init__(self, *, seconds: float = 0.0, html: bool = False) -> None:
        self.gate = threading.Event()
        """``timeline`` answers when it is set."""
        self.seconds = seconds
        """That ``classify`` takes."""
        self.html = html
        """Whether it has a part with a template."""
        self.seen: list[str] = []
        """The last paths that handlers were given."""
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        settle()
        self.blocks = in_a_loop(self._blocks)

    def _blocks(self) -> gradio.Blocks:
        with gradio.Blocks() as blocks:
            clip = gradio.Video(sources=["upload"])
            file = gradio.File()
            word = gradio.Textbox()
            answer = gradio.JSON()
            copy = gradio.File()
            button = gradio.Button("Classify")
            if self.html:
                gradio.HTML("<b>bars</b>")
            button.click(self.classify, [file, word], [answer, copy], api_name="classify")
            clip.change(self.note, clip, word, api_name="watch")
            word.submit(self.wait, word, answer, api_name="timeline")
            word.change(self.leak, word, copy, api_name="leak")
            word.blur(self.hidden, word, answer, api_visibility="private", api_name="hidden")
        assert isinstance(blocks, gradio.Blocks)
        return blocks

    def classify(self, file: str | None, word: str) -> tuple[dict[str, Any], str | None]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.seconds)
            if file is None:
                return {"word": word}, None
            self._note(file)
            return {"size": Path(file).stat().st_size, "word": word}, file
        finally:
            with self._lock:
                self.at_once -= 1

    def _note(self, path: str) -> None:
        self.seen.append(path)
        del self.seen[:-100]

    def note(self, clip: str | None) -> str:
        if clip is not None:
            self._note(clip)
        return "seen"

    def wait(self, word: str) -> dict[str, str]:
        assert self.gate.wait(30)
        return {"word": word}

    def leak(self, word: str) -> str:
        """A handler with a mistake: it gives out whatever file a visitor names."""
        return word

    def hidden(self, word: str) -> dict[str, str]:
        return {"word": word}
