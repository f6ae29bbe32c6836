"""The page as a Hugging Face Space, or anywhere else: ``python demo/app.py``.

Put your bundle beside this file, in ``bundle/``; without one, the example bundle is shown.
"""

import os
from pathlib import Path

from lora_deploy.demo.launch import run_demo
from lora_deploy.demo.settings import DemoSettings

BUNDLE = Path(__file__).parent / "bundle"

in_space = "SPACE_ID" in os.environ  # where Hugging Face decides who may come in

if __name__ == "__main__":
    run_demo(
        [BUNDLE] if BUNDLE.is_dir() else [],
        DemoSettings(
            host="0.0.0.0" if in_space else "127.0.0.1",  # noqa: S104
            port=int(os.environ.get("PORT", "7860")),
            without_login=in_space,
            framed_by=("https://huggingface.co",) if in_space else (),
        ),
        ready=lambda address: print(f"the page is at {address}"),
    )
